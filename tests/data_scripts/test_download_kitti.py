"""The downloader against a local server that misbehaves as a real one may; the drives' catalog."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import defaultdict, namedtuple
from pathlib import Path

import pytest
from filelock import FileLock

import download_kitti
from download_kitti import ARCHIVE_BYTES, KEPT_BYTES, Job, make_plan
from kitti_drives import EIGEN_TEST_DRIVES, choose_drives, load_catalog
from kitti_server import Answer, KittiServer, calibration_files, drive_files, kept_files, zip_of
from ubnlib.kitti.raw import find_drives

SCRIPT = Path(download_kitti.__file__)
DATE = "2011_09_26"
LARGE, SMALL = choose_drives(["2011_09_26_drive_0048", "2011_09_26_drive_0002"])  # 77, 22 frames
FILES = {drive.name: drive_files(drive) for drive in (SMALL, LARGE)}
ARCHIVES = {name: zip_of(files) for name, files in FILES.items()}
CALIBRATION = calibration_files(DATE)
PATH = Job.of_drive(SMALL).path


@pytest.fixture
def server():
    with KittiServer() as running:
        running.files[Job.of_calibration(DATE).path] = zip_of(CALIBRATION)
        for drive in (SMALL, LARGE):
            running.files[Job.of_drive(drive).path] = ARCHIVES[drive.name]
        yield running


def command(root, server, *options):
    return [str(SCRIPT), str(root), "--base-url", server.url, "--quiet", *options]


@pytest.fixture
def get(server, tmp_path, monkeypatch, capsys):
    """Run the script in this process for the small drive; return its status and what it said."""
    monkeypatch.setattr(download_kitti, "LONGEST_WAIT", 0.01)
    kitti = tmp_path / "kitti"

    def get(*options, drives=(SMALL,), root=kitti):
        names = [drive.name for drive in drives]
        options = ("--timeout", "1", "--attempts", "3", *options)
        monkeypatch.setattr(sys, "argv", command(root, server, "--drives", *names, *options))
        status = download_kitti.main()
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return get


@pytest.fixture
def root(tmp_path):
    return tmp_path / "kitti"


def part_of(root):
    return root / "archives" / f"{SMALL.name}_sync.zip.part"


def on_disk(root):
    """Return all files of a folder, but for the lock."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".download.lock"
    }


def expected(*drives):
    kept = [kept_files(FILES[drive.name]) for drive in drives]
    return CALIBRATION | {name: data for files in kept for name, data in files.items()}


# --- the plan and the whole -----------------------------------------------------------------------


def test_a_plan_counts_bytes_time_and_disk(root):
    plan = make_plan(root, (LARGE, SMALL), 1)
    assert plan.fetch == 99 * ARCHIVE_BYTES and plan.arrived == 0
    assert plan.disk_needed == 77 * ARCHIVE_BYTES + 99 * KEPT_BYTES
    assert make_plan(root, (LARGE, SMALL), 2).disk_needed == 99 * (ARCHIVE_BYTES + KEPT_BYTES)
    part_of(root).parent.mkdir(parents=True)
    part_of(root).write_bytes(bytes(1_000_000))
    (root / DATE / f"{LARGE.name}_sync").mkdir(parents=True)
    plan = make_plan(root, (LARGE, SMALL), 1)
    assert (plan.fetch, plan.arrived) == (22 * ARCHIVE_BYTES, 1_000_000)
    whole = make_plan(root, choose_drives(), 1)
    assert "4 h 48 min for the rest, at 10 MB/s" in whole.describe()  # of 173 GB


def test_a_dry_run_asks_nobody_and_writes_nothing(get, server, root):
    assert get("--dry-run")[0] == 0
    assert not root.exists() and not server.statuses
    everything = make_plan(root, choose_drives(), 4)
    assert everything.fetch == pytest.approx(173.4e9, rel=2e-3)  # as KITTI says


@pytest.mark.parametrize("option", ["--jobs", "--timeout", "--attempts"])
def test_an_option_of_no_use_is_named(get, capsys, option):
    with pytest.raises(SystemExit):
        get(option, "0")
    assert f"argument {option}: '0' is not a whole number from 1 on." in capsys.readouterr().err


def test_drives_and_calibration_arrive_and_are_kept(get, server, root):
    status, said = get(drives=(SMALL, LARGE))
    assert status == 0, said
    assert on_disk(root) == expected(SMALL, LARGE)
    assert sorted(find_drives(root)[0]) == sorted([SMALL.name, LARGE.name])
    assert {path.name for path in root.iterdir()} <= {DATE, ".download.lock"}
    server.statuses.clear()
    part_of(root).parent.mkdir()
    part_of(root).touch()  # as if killed before it had tidied up
    status, said = get(drives=(SMALL, LARGE))
    assert status == 0 and "0 to fetch, 2 there already" in said and not server.statuses
    assert not part_of(root).parent.exists()
    next((root / DATE / f"{SMALL.name}_sync/image_02/data").iterdir()).unlink()
    status, said = get()
    assert status == 0 and "21 files image_02/data/*.png, 22 were expected" in said


# --- servers that misbehave -----------------------------------------------------------------------


def test_what_was_cut_off_goes_on_where_it_stopped(get, server, root):
    cuts = [Answer(cut_after=70_000), Answer(status=503), Answer(stall_after=70_000)]
    server.answers[PATH] += cuts
    status, said = get()
    assert status == 0, said
    assert server.statuses[PATH] == [200, 503, 206, 206]
    assert on_disk(root) == expected(SMALL)


def test_attempts_that_bring_nothing_end_with_what_is_kept(get, server, root):
    server.answers[PATH] += [Answer(cut_after=70_000)] + 3 * [Answer(status=503)]
    status, said = get(drives=(SMALL, LARGE))
    assert status == 1
    assert f"{SMALL.name} failed: " in said and "503 Service Unavailable" in said
    assert re.search(r"[67]\d,\d{3} bytes are kept, run again to go on", said)
    assert expected(LARGE).items() <= on_disk(root).items()  # one failure does not stop the others
    assert get()[0] == 0 and on_disk(root) == expected(SMALL, LARGE)


def test_a_server_that_ignores_ranges_sends_all_again(get, server, root):
    server.ranges = False
    server.answers[PATH].append(Answer(cut_after=100_000))
    assert get()[0] == 0
    assert server.statuses[PATH] == [200, 200] and on_disk(root) == expected(SMALL)


def test_all_sent_again_replaces_what_is_here_only_with_more(get, server, root):
    server.answers[PATH] += [Answer(cut_after=140_000)] + 3 * [Answer(status=503)]
    assert get()[0] == 1
    arrived, server.ranges = part_of(root).read_bytes(), False
    assert len(arrived) > 100_000
    server.answers[PATH] += 3 * [Answer(cut_after=1000)]
    status, said = get()
    assert status == 1 and f"{len(arrived):,} bytes are kept" in said
    assert part_of(root).read_bytes() == arrived
    server.answers[PATH] += [Answer(cut_after=200_000)] + 3 * [Answer(status=503)]
    assert get()[0] == 1
    assert len(arrived) < part_of(root).stat().st_size < 200_001
    assert [path.name for path in part_of(root).parent.iterdir()] == [part_of(root).name]
    (part_of(root).with_suffix(".again")).touch()  # of a process that was killed
    assert get()[0] == 0 and on_disk(root) == expected(SMALL)


def test_a_wait_is_said(get, server):
    server.answers[PATH].append(Answer(status=503))
    status, said = get()
    assert status == 0
    told = (
        f"{SMALL.name}_sync.zip: the server answered 503 Service Unavailable; trying again in 0 s"
    )
    assert f"download_kitti: {told}\n" in said


def test_bytes_of_something_else_are_found_out(get, server, root):
    part_of(root).parent.mkdir(parents=True)
    part_of(root).write_bytes(bytes(150_000))
    status, said = get()
    assert status == 1 and "It was removed; run again" in said
    assert get()[0] == 0 and on_disk(root) == expected(SMALL)


def test_a_missing_archive_is_one_sentence(get, server, root):
    del server.files[PATH]
    status, said = get(drives=(SMALL, LARGE))
    assert status == 1 and on_disk(root) == expected(LARGE)
    assert f"{SMALL.name} failed: {server.url}/{PATH}: the server answered 404 Not Found" in said


def test_no_server_is_one_sentence(get, server):
    server.url = "http://127.0.0.1:9"
    status, said = get()
    assert status == 1 and "refused" in said and "cannot be fetched" in said


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("text/html; charset=utf-8", "a web page, such as for a login"),
        ("application/octet-stream", "something else than a zip archive: check the base URL"),
    ],
)
def test_a_login_page_is_told_and_does_not_replace_what_has_arrived(get, server, root, kind, what):
    server.answers[PATH] += [Answer(cut_after=70_000)] + 3 * [Answer(status=503)]
    assert get()[0] == 1
    arrived = part_of(root).read_bytes()
    server.ranges, server.files[PATH] = False, b"<!DOCTYPE html><title>Login</title>" * 9
    server.answers[PATH].append(Answer(headers={"Content-Type": kind}))
    status, said = get()
    assert status == 1 and f"{PATH}: the server sent {what}" in said
    assert part_of(root).read_bytes() == arrived
    server.ranges, server.files[PATH] = True, ARCHIVES[SMALL.name]
    assert get()[0] == 0 and on_disk(root) == expected(SMALL)


# --- archives that are damaged or hostile ---------------------------------------------------------


def member(name, content=b"x"):
    return zip_of(FILES[SMALL.name] | {name: content})


FIRST = f"{DATE}/{SMALL.name}_sync/image_02/data/0000000003.png"
STORED = zip_of(FILES[SMALL.name], zipfile.ZIP_STORED)
REFUSED = {
    "climbs": (member("../../evil"), r"refused: its member '../../evil' lies outside"),
    "absolute": (member("/tmp/evil"), "lies outside"),
    "backslashes": (member(f"{DATE}/{SMALL.name}_sync/..\\evil"), "lies outside"),
    "another drive": (ARCHIVES[LARGE.name], "lies outside"),
    "bad checksum": (
        STORED.replace(FILES[SMALL.name][FIRST], FILES[SMALL.name][FIRST][::-1]),
        "damaged or no zip archive .*CRC",
    ),
    "a web page": (b"\n<html>Log in</html>", "a web page, such as for a login, and no zip archive"),
    "no scans": (
        zip_of({n: c for n, c in FILES[SMALL.name].items() if "velodyne" not in n}),
        r"lacks velodyne_points/data/\*.bin",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_archive_leaves_nothing_and_is_fetched_anew(get, server, root, case):
    server.files[PATH], reason = REFUSED[case]
    status, said = get()
    assert status == 1 and re.search(reason, said)
    assert "It was removed; run again" in said and "Traceback" not in said
    assert on_disk(root.parent) == {f"kitti/{name}": data for name, data in CALIBRATION.items()}
    server.files[PATH] = ARCHIVES[SMALL.name]
    assert get()[0] == 0 and on_disk(root) == expected(SMALL)


def test_absurd_sizes_are_refused(get, monkeypatch):
    monkeypatch.setattr(download_kitti, "LARGEST_BYTES", 5_000)
    status, said = get()
    assert status == 1 and re.search(r"bytes unpacked, 160,000 are the limit", said)


# --- disks, locks, signals ------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(get, root, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 10**8, 10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    status, said = get()
    assert status == 1 and "are free; choose fewer drives" in said and not root.exists()


@pytest.mark.parametrize("stage", ["fetched", "unpacked"])
def test_a_full_disk_is_told_and_the_next_run_goes_on(get, root, monkeypatch, stage):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        owner, name = (Path, "open") if stage == "fetched" else (zipfile.ZipFile, "extract")
        patch.setattr(owner, name, full)
        status, said = get()
    path = part_of(root) if stage == "fetched" else root
    told = f"{path} cannot be written in full (No space left on device): free some space, and the"
    assert status == 1 and f"{SMALL.name} failed: {told}" in said
    assert get()[0] == 0 and on_disk(root) == expected(SMALL)


def test_a_second_download_to_the_same_folder_is_refused(get, root):
    root.mkdir()
    with FileLock(root / ".download.lock"):
        status, said = get()
    assert status == 1 and "another download to" in said
    assert get()[0] == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_goes_on_where_it_stopped(get, server, root, how):
    """Ctrl-C does not wait for a silent server either."""
    files = drive_files(SMALL, size=20_000)
    server.files[PATH] = zip_of(files)
    server.answers[PATH].append(Answer(stall_after=600_000))
    arguments = [sys.executable, *command(root, server, "--drives", SMALL.name)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not part_of(root).exists() or part_of(root).stat().st_size < 500_000:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    for name in (SMALL.name, f"{DATE}_calib"):  # as if killed while unpacking, or just after
        (root / f".{name}.partial" / DATE).mkdir(parents=True, exist_ok=True)
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130 and "run the same command to go on" in said
        assert "Traceback" not in said
    here, sent = part_of(root).stat().st_size, server.sent[PATH]
    assert not list(root.glob(f"{DATE}/*_sync"))
    assert get()[0] == 0
    assert server.sent[PATH] - sent == len(server.files[PATH]) - here  # the rest alone
    assert on_disk(root) == CALIBRATION | kept_files(files)
    assert {path.name for path in root.iterdir()} <= {DATE, ".download.lock"}


def test_a_download_killed_before_it_had_unpacked_fetches_nothing(get, server, root):
    part_of(root).parent.mkdir(parents=True)
    part_of(root).write_bytes(ARCHIVES[SMALL.name])
    assert get()[0] == 0 and PATH not in server.statuses
    assert on_disk(root) == expected(SMALL)


# --- the catalog ----------------------------------------------------------------------------------


def test_counts_are_the_published_ones():
    assert (len(load_catalog()), sum(drive.frames for drive in load_catalog())) == (61, 42382)
    train, test = choose_drives(split="eigen_train"), choose_drives(split="eigen_test")
    assert (len(train), sum(drive.frames for drive in train)) == (33, 23488)
    assert (len(test), sum(drive.frames for drive in test)) == (28, 18894)
    assert sorted([*train, *test]) == sorted(load_catalog()) == sorted(choose_drives(split="all"))
    lacking = {drive.name: drive.frames - drive.scans for drive in load_catalog()}
    assert {name: count for name, count in lacking.items() if count} == {f"{DATE}_drive_0009": 4}


def test_no_published_frame_lies_beyond_its_drive(kitti_sample):
    if not (lists := kitti_sample / "splits").is_dir():
        pytest.skip(f"the published lists are needed: {lists} is missing")
    assert set((lists / "test_scenes_eigen.txt").read_text().split()) == EIGEN_TEST_DRIVES
    last = defaultdict(int)
    lines = [line for path in lists.glob("eigen_*.txt") for line in path.read_text().splitlines()]
    found = [(line.split()[0].split("/")[1], line.split()[1]) for line in lines]
    static = (lists / "static_frames.txt").read_text().splitlines()
    for folder, frame in found + [tuple(line.split()[1:]) for line in static]:
        name = folder.removesuffix("_sync")
        last[name] = max(last[name], int(frame))
    assert all(last[drive.name] < drive.frames for drive in load_catalog())
    train = choose_drives(split="eigen_train")
    reached = [drive.name for drive in train if last[drive.name] == drive.frames - 1]
    assert len(reached) >= len(train) - 1  # the list of 2011_10_03_drive_0042 stops one frame early
