"""Downloads from a local server that misbehaves in every way that a real one may."""

import fcntl
import hashlib
import json
import os
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from kitti_download import Patience, download, survey
from kitti_download.catalog import calibration_archive, choose_drives
from kitti_download.jobs import Job, Sorted, sort_out
from kitti_download.plan import plan
from kitti_download.threads import run_in_threads
from kitti_download.transfer import fetch
from kitti_server import (
    HASTE,
    Answer,
    KittiServer,
    calibration_files,
    drive_files,
    kept_files,
    zip_of,
)
from ubnlib.kitti.raw import find_drives

SCRIPT = Path(__file__).parents[2] / "data_scripts" / "download_kitti.py"
DATE = "2011_09_26"
SMALL, LARGE = choose_drives(["2011_09_26_drive_0048", "2011_09_26_drive_0002"])[::-1]
FILES = {drive.name: drive_files(drive) for drive in (SMALL, LARGE)}
ARCHIVES = {name: zip_of(files) for name, files in FILES.items()}
CALIBRATION = calibration_files(DATE)


@pytest.fixture
def server():
    with KittiServer() as running:
        running.publish(calibration_archive(DATE), zip_of(CALIBRATION))
        for drive in (SMALL, LARGE):
            running.publish(drive.archive, ARCHIVES[drive.name])
        yield running


def get(root, server, drives=(SMALL,), **options):
    """Plan and download; return the report."""
    shared = {"parallel": 2, "keep_archives": False, "patience": HASTE} | options
    found = survey(root, drives, server.url, rate=1e6, **shared)
    return download(root, found, server.url, progress=False, **shared)


def on_disk(root):
    """Return the files of a folder, but for the manifest."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "download_manifest.json"
    }


def expected(*drives):
    return CALIBRATION | {
        name: content for drive in drives for name, content in kept_files(FILES[drive.name]).items()
    }


# --- the plan -----------------------------------------------------------------------------------


def jobs(*sizes):
    return tuple(Job(f"j{size}", f"x/j{size}.zip", size, size // 2, None) for size in sizes)


def planned(*sizes, known=None, arrived=None, **options):
    defaults = {"rate": 10.0, "parallel": 2, "keep_archives": False, "disk_free": 1000}
    return plan(Sorted(jobs(*sizes), (), {}), known or {}, arrived or {}, **defaults | options)


def test_a_plan_counts_bytes_time_and_disk():
    result = planned(100, 400, 300)
    assert result.sizes == {"j100": 100, "j400": 400, "j300": 300}
    assert result.seconds == 80.0
    assert result.disk_needed == 400 + 300 + (50 + 200 + 150)
    assert result.estimated == {"j100", "j400", "j300"}
    assert not result.fits and planned(100, 400, 300, disk_free=1100).fits


def test_a_plan_prefers_what_the_server_says_and_leaves_out_what_is_here():
    result = planned(100, 400, 300, known={"j400": 500, "j300": None}, arrived={"j400": 200})
    assert result.sizes == {"j100": 100, "j400": 500, "j300": 300}
    assert result.estimated == {"j100", "j300"}
    assert result.arrived == {"j100": 0, "j400": 200, "j300": 0}
    assert result.seconds == 70.0
    assert result.disk_needed == 300 + 300 + 400


def test_kept_archives_need_room_for_all():
    assert planned(100, 400, 300, keep_archives=True).disk_needed == 800 + 400


def test_more_bytes_than_the_archive_has_do_not_count():
    result = planned(100, arrived={"j100": 150})
    assert (result.arrived, result.seconds) == ({"j100": 100}, 0)


def test_a_survey_asks_the_server_and_writes_nothing(server, tmp_path):
    root = tmp_path / "deep" / "kitti"
    options = {"rate": 1e6, "parallel": 2, "keep_archives": False, "patience": HASTE}
    found = survey(root, (SMALL, LARGE), server.url, **options)
    assert found.sizes == {
        f"{DATE}_calib": len(zip_of(CALIBRATION)),
        **{name: len(content) for name, content in ARCHIVES.items()},
    }
    assert found.estimated == frozenset()
    assert found.disk_free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert list(tmp_path.iterdir()) == []
    assert "drives    2 to fetch, 0 complete already" in str(found)


def test_without_a_server_sizes_are_estimates_and_called_so(tmp_path):
    options = {"rate": 1e6, "parallel": 2, "keep_archives": False, "patience": HASTE}
    found = survey(tmp_path, choose_drives(), "http://127.0.0.1:9", **options)
    assert len(found.estimated) == 61 + 5  # drives and dates
    assert sum(found.sizes.values()) == pytest.approx(173.4e9, rel=2e-3)
    assert "no server told 66 of the sizes: estimates" in str(found)


def test_a_server_out_of_reach_is_not_asked_for_every_size(tmp_path):
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # closed
                    return
                asked.append(1)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        options = {"rate": 1e6, "parallel": 2, "keep_archives": False, "patience": HASTE}
        assert len(survey(tmp_path, choose_drives(), url, **options).estimated) == 66
    assert 1 <= len(asked) < 33


def test_an_interrupt_stops_the_threads_and_starts_no_more():
    begun, stop = [], threading.Event()

    def work(task):
        begun.append(task)
        if task == 2:
            stop.wait(20)

    def note(task, outcome):
        while 2 not in begun:
            time.sleep(0.001)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_threads([1, 2, 3], work, note, 1, stop)
    assert stop.is_set() and begun == [1, 2]


# --- whole downloads ----------------------------------------------------------------------------


def test_drives_and_calibration_arrive_in_parallel(server, tmp_path):
    report = get(tmp_path, server, (SMALL, LARGE))
    assert sorted(report.done) == [f"{DATE}_calib", LARGE.name, SMALL.name]
    assert (report.failed, report.notes) == ({}, [])
    assert on_disk(tmp_path) == expected(SMALL, LARGE)
    assert sorted(find_drives(tmp_path)) == sorted([SMALL.name, LARGE.name])
    assert {path.name for path in tmp_path.iterdir()} == {DATE, "download_manifest.json"}


def test_two_archives_are_on_their_way_at_once(server, tmp_path):
    together = threading.Barrier(2, timeout=20)
    for drive in (SMALL, LARGE):
        server.answer(drive.archive, Answer(before=together.wait))
    one_long_try = Patience(read=60, attempts=1)
    assert get(tmp_path, server, (SMALL, LARGE), patience=one_long_try).failed == {}
    assert not together.broken


def test_the_manifest_says_what_arrived(server, tmp_path):
    before = datetime.now(UTC).replace(microsecond=0)
    get(tmp_path, server)
    manifest = json.loads((tmp_path / "download_manifest.json").read_text())
    assert "publishes no checksums" in manifest["about"]
    names = ["2011_09_26_calib.zip", f"{SMALL.name}_sync.zip"]
    assert list(manifest["archives"]) == names
    entry = manifest["archives"][names[1]]
    assert before <= datetime.fromisoformat(entry.pop("date")) <= datetime.now(UTC)
    assert entry == {
        "url": f"{server.url}/{SMALL.archive}",
        "bytes": len(ARCHIVES[SMALL.name]),
        "sha256": hashlib.sha256(ARCHIVES[SMALL.name]).hexdigest(),
        "files": {"image_02": 22, "image_03": 22, "velodyne_points": 22},
        "notes": [],
    }


def test_a_complete_drive_is_kept_and_not_asked_for(server, tmp_path):
    get(tmp_path, server)
    mark = tmp_path / DATE / f"{SMALL.name}_sync" / "mark"
    mark.write_text("mine")
    server.requests.clear()
    found = survey(tmp_path, (SMALL,), server.url, rate=1, parallel=1, keep_archives=False)
    assert found.todo.jobs == ()
    assert [job.name for job in found.todo.kept] == [f"{DATE}_calib", SMALL.name]
    assert "drives    0 to fetch, 1 complete already" in str(found)
    assert get(tmp_path, server).done == []
    assert server.requests == [] and mark.exists()
    get(tmp_path, server, (SMALL, LARGE))
    manifest = json.loads((tmp_path / "download_manifest.json").read_text())
    assert len(manifest["archives"]) == 3  # the earlier entries stay


@pytest.mark.parametrize("sensor", ["image_02", "image_03", "velodyne_points"])
def test_an_incomplete_drive_that_is_there_is_neither_taken_nor_touched(server, tmp_path, sensor):
    get(tmp_path, server)
    (tmp_path / "download_manifest.json").unlink()  # as if another program had extracted it
    folder = tmp_path / DATE / f"{SMALL.name}_sync"
    next((folder / sensor / "data").iterdir()).unlink()
    before = on_disk(tmp_path)
    report = get(tmp_path, server, (SMALL, LARGE))
    assert report.done == [LARGE.name]
    message = report.failed[SMALL.name]
    assert f"21 files in {sensor}; 22 were expected" in message and "Move it away" in message
    assert before.items() <= on_disk(tmp_path).items()


def test_a_drive_that_differs_from_the_catalog_is_said_and_then_kept(server, tmp_path):
    files = drive_files(SMALL, scans=range(20))
    server.publish(SMALL.archive, zip_of(files))
    assert get(tmp_path, server).notes == [
        f"{SMALL.name} holds 20 files in velodyne_points; 22 were expected."
    ]
    assert [job.name for job in sort_out(tmp_path, (SMALL,)).kept][1:] == [SMALL.name]
    next((tmp_path / DATE).glob("*_sync/velodyne_points/data/*")).unlink()
    assert list(sort_out(tmp_path, (SMALL,)).blocked) == [SMALL.name]


def test_a_length_that_is_too_small_is_found_by_the_archive_check(server, tmp_path):
    server.answer(SMALL.archive, Answer(more_length=-1000))
    report = get(tmp_path, server)
    assert "damaged or no zip archive" in report.failed[SMALL.name]
    assert get(tmp_path, server).failed == {}
    assert on_disk(tmp_path) == expected(SMALL)


def test_one_failure_does_not_stop_the_others(server, tmp_path):
    del server.files[f"/avg-kitti/{SMALL.archive}"]
    report = get(tmp_path, server, (SMALL, LARGE))
    assert sorted(report.done) == [f"{DATE}_calib", LARGE.name]
    assert list(report.failed) == [SMALL.name]
    assert "404" in report.failed[SMALL.name] and SMALL.name in report.failed[SMALL.name]
    assert on_disk(tmp_path) == expected(LARGE)


def test_a_hostile_archive_leaves_nothing_and_is_fetched_anew(server, tmp_path):
    server.publish(SMALL.archive, zip_of(FILES[SMALL.name] | {"../../evil": b"x"}))
    report = get(tmp_path / "kitti", server)
    assert "climbing name" in report.failed[SMALL.name]
    assert "It was removed; run again" in report.failed[SMALL.name]
    assert on_disk(tmp_path) == {f"kitti/{name}": data for name, data in CALIBRATION.items()}
    server.publish(SMALL.archive, ARCHIVES[SMALL.name])
    assert get(tmp_path / "kitti", server).failed == {}
    assert on_disk(tmp_path / "kitti") == expected(SMALL)


def test_damage_on_the_way_is_found_also_in_what_is_not_extracted(server, tmp_path):
    gray = FILES[SMALL.name][f"{DATE}/{SMALL.name}_sync/image_00/data/0000000003.png"]
    content = zip_of(FILES[SMALL.name], zipfile.ZIP_STORED)
    server.publish(SMALL.archive, content.replace(gray, gray[::-1]))
    assert "CRC" in get(tmp_path, server).failed[SMALL.name]
    assert find_no_drive(tmp_path)


def find_no_drive(root):
    return not list(root.glob("*/*_sync")) and not list(root.glob("*/.*"))


def test_archives_are_kept_when_wanted_and_used_again(server, tmp_path):
    get(tmp_path, server, keep_archives=True)
    kept = tmp_path / "archives" / f"{SMALL.name}_sync.zip"
    assert kept.read_bytes() == ARCHIVES[SMALL.name]
    assert len(list(kept.parent.iterdir())) == 2  # no .part, no notes
    shutil.rmtree(tmp_path / DATE)
    server.requests.clear()
    assert get(tmp_path, server).failed == {}
    assert [request for request in server.requests if request[0] == "GET"] == []
    assert expected(SMALL).items() <= on_disk(tmp_path).items()
    assert kept.exists()  # it was there before, so it stays


def test_a_damaged_kept_archive_is_left_to_its_owner(server, tmp_path):
    kept = tmp_path / "archives" / f"{SMALL.name}_sync.zip"
    kept.parent.mkdir()
    kept.write_bytes(b"junk")
    report = get(tmp_path, server)
    assert "Remove it, then run again." in report.failed[SMALL.name]
    assert kept.read_bytes() == b"junk"


def test_a_drive_is_recorded_before_it_is_in_place(server, tmp_path, monkeypatch):
    get(tmp_path, server, ())
    monkeypatch.setattr(Path, "replace", refuse_drives(Path.replace))
    report = get(tmp_path, server)
    assert list(report.failed) == [SMALL.name]
    assert find_no_drive_in_place(tmp_path)
    manifest = json.loads((tmp_path / "download_manifest.json").read_text())
    assert f"{SMALL.name}_sync.zip" in manifest["archives"]
    monkeypatch.undo()
    sent = server.sent(SMALL.archive)
    assert get(tmp_path, server).failed == {}
    assert server.sent(SMALL.archive) == sent  # the archive was still there
    assert on_disk(tmp_path) == expected(SMALL)


def refuse_drives(replace):
    def broken(self, target):
        if str(target).endswith("_sync"):
            raise OSError(5, "Input/output error", str(target))
        return replace(self, target)

    return broken


def find_no_drive_in_place(root):
    return not list(root.glob("*/*_sync"))


def test_what_a_process_killed_at_the_very_end_left_is_removed(server, tmp_path):
    get(tmp_path, server)
    (tmp_path / "archives").mkdir()
    fetch(f"{server.url}/{SMALL.archive}", Job.for_drive(SMALL).partial_file(tmp_path))
    get(tmp_path, server)
    assert {path.name for path in tmp_path.iterdir()} == {DATE, "download_manifest.json"}


def test_a_disk_that_takes_no_more_is_one_sentence_and_resumes(server, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, limits[1]))  # bytes in any one file
    try:
        report = get(tmp_path, server)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large; make room, or see that" in report.failed[SMALL.name]
    part = tmp_path / "archives" / f"{SMALL.name}_sync.zip.part"
    assert part.read_bytes() == ARCHIVES[SMALL.name][:70_000]
    assert get(tmp_path, server).failed == {}
    assert [status for _, status in server.gets(SMALL.archive)] == [200, 206]
    assert on_disk(tmp_path) == expected(SMALL)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(server, tmp_path):
    options = {"rate": 1e6, "parallel": 2, "keep_archives": False, "patience": HASTE}
    root = tmp_path / "kitti"
    found = survey(root, (SMALL,), server.url, **options)
    small = plan(
        found.todo, {}, {}, rate=1, parallel=1, keep_archives=False, disk_free=found.disk_needed - 1
    )
    with pytest.raises(OSError, match=r"too small: .* are free; choose fewer drives"):
        download(root, small, server.url, progress=False)
    assert not root.exists()


def test_a_target_that_is_a_file_is_said(server, tmp_path):
    (tmp_path / "kitti").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="is a file: name a folder"):
        get(tmp_path / "kitti", server)


@pytest.mark.parametrize("name", ["archives", DATE])
def test_a_file_in_the_way_is_said(server, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    if name == "archives":
        with pytest.raises(OSError, match=r"archives: File exists; make room, or see"):
            get(tmp_path, server)
    else:
        assert "see that the folder may be written" in get(tmp_path, server).failed[SMALL.name]


def test_a_folder_that_must_not_be_written_is_said(server, tmp_path):
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user, such as root, may write anywhere")
        with pytest.raises(OSError, match="Permission denied; make room, or see"):
            get(tmp_path, server)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}', '{"archives": {"a": 1}}'])
def test_a_manifest_that_is_none_is_refused(server, tmp_path, text):
    (tmp_path / "download_manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"is no download manifest of schema 1 .*move it away"):
        get(tmp_path, server)
    assert server.requests == []


def test_a_second_download_to_the_same_folder_is_refused(server, tmp_path):
    with locked(tmp_path), pytest.raises(BlockingIOError, match=r"Another download .* is running"):
        get(tmp_path, server)
    assert get(tmp_path, server).failed == {}


@contextmanager
def locked(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # it keeps out whoever wants to be alone
    try:
        yield
    finally:
        os.close(descriptor)


# --- the command line ---------------------------------------------------------------------------


def command(root, server, *options):
    return [sys.executable, SCRIPT, root, "--base-url", server.url, *options]


@pytest.fixture
def run(server, tmp_path, monkeypatch, capsys):
    """Run the script in this process; return its status and what it printed."""
    script = runpy.run_path(str(SCRIPT))

    def run(*options, root=tmp_path):
        arguments = [str(argument) for argument in command(root, server, *options)[1:]]
        monkeypatch.setattr(sys, "argv", arguments)
        try:
            status = script["main"]()
        except SystemExit as refused:  # of argparse
            status = refused.code
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=printed.out, stderr=printed.err)

    return run


def test_the_script_downloads(run, tmp_path):
    done = run("--drives", SMALL.name, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "1 to fetch" in done.stdout and "as the server says" in done.stdout
    assert "downloading: 100%" in done.stderr
    assert on_disk(tmp_path) == expected(SMALL)


def test_a_dry_run_writes_nothing_and_says_all(run, server, tmp_path):
    root = tmp_path / "kitti"
    done = run("--split", "eigen_train", "--dry-run", "--rate", "20", root=root)
    assert done.returncode == 0, done.stderr
    assert "33 to fetch" in done.stdout and "at the given rate" in done.stdout
    assert not root.exists()
    assert {method for method, *_ in server.requests} == {"HEAD"}


def test_failures_are_listed_and_end_in_status_1(run, tmp_path):
    missing = "2011_09_26_drive_0052"
    done = run("--drives", SMALL.name, missing, "--quiet")
    assert done.returncode == 1
    assert f"download_kitti: {missing} failed: The server answered 404" in done.stderr
    assert "Traceback" not in done.stderr
    assert on_disk(tmp_path) == expected(SMALL)


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        (["--drives", "0001"], "Unknown drives 0001", 1),
        (["--split", "all", "--jobs", "0"], "at least 1", 2),
        (["--rate", "-1"], "must be above 0", 2),
        (["--rate", "nan"], "must be above 0", 2),
        (["--timeout", "soon"], "invalid", 2),
    ],
)
def test_wrong_options_are_one_sentence(run, options, message, status):
    done = run(*options)
    assert done.returncode == status
    assert message in done.stderr and "Traceback" not in done.stderr


def started(root, server, large=3_000_000):
    """Start the script on a slow server, and wait until a part has arrived."""
    server.delay = 0.02
    files = drive_files(SMALL, size=large // (5 * 22))
    server.publish(SMALL.archive, zip_of(files))
    process = subprocess.Popen(
        command(root, server, "--drives", SMALL.name, "--quiet"),
        stderr=subprocess.PIPE,
        text=True,
    )
    partial = root / "archives" / f"{SMALL.name}_sync.zip.part"
    deadline = time.monotonic() + 60
    while not partial.exists() or partial.stat().st_size < 500_000:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return process, partial, files


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_goes_on_where_it_stopped(run, server, tmp_path, how):
    process, partial, files = started(tmp_path, server)
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    here, size = partial.stat().st_size, len(server.files[f"/avg-kitti/{SMALL.archive}"])
    assert 500_000 <= here < size
    assert find_no_drive(tmp_path)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "what arrived is kept, run the same command to go on" in errors
        assert "Traceback" not in errors
    time.sleep(0.2)  # for the server to notice, and to end its count
    server.delay, sent = 0, server.sent(SMALL.archive)
    done = run("--drives", SMALL.name, "--quiet")
    assert done.returncode == 0, done.stderr
    assert server.sent(SMALL.archive) - sent == size - here  # the rest, and nothing but the rest
    assert on_disk(tmp_path) == CALIBRATION | kept_files(files)
    manifest = json.loads((tmp_path / "download_manifest.json").read_text())
    sha256 = hashlib.sha256(server.files[f"/avg-kitti/{SMALL.archive}"]).hexdigest()
    assert manifest["archives"][f"{SMALL.name}_sync.zip"]["sha256"] == sha256


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_silent_server(server, tmp_path):
    server.answer(SMALL.archive, Answer(stall_after=600_000))
    process, *_ = started(tmp_path, server)
    time.sleep(0.3)  # it waits for bytes that never come; the read timeout is a minute
    interrupted = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=50)
    assert time.monotonic() - interrupted < 30
    assert process.returncode == 130
