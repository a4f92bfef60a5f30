"""Preparation: the packed frames, runs killed at every step, damage, and whatever is in the way."""

import errno
import hashlib
import importlib.util
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock  # noqa: F401  (a first import would be among the operations)
import numpy as np
import pytest
import torch

from prepare_kitti import verify
from small_kitti import DATE, image_path, scan_path, write_frame, write_textured
from train_worker import run_script, start
from ubnlib.kitti import KittiRaw, PackedDepth
from ubnlib.kitti.prepare import Preparation, prepare

SCRIPT = Path(__file__).parents[2] / "data_scripts" / "prepare_kitti.py"
SIZE = (12, 36)
FRAMES = 10  # of the fixture: 5 of each camera, in 4 chunks

prepare_module = sys.modules["ubnlib.kitti.prepare"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK", 3)


@pytest.fixture
def root(tmp_path):
    return write_textured(tmp_path / "raw")


@pytest.fixture
def raw(root):
    return KittiRaw(root, size=SIZE)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "packed"


@pytest.fixture
def undisturbed(raw, tmp_path):
    """All bytes of an undisturbed run."""
    return content(pack(raw, tmp_path / "undisturbed").folder)


@pytest.fixture
def decoded(monkeypatch):
    """The frames that are decoded, by position."""
    indices = []
    original = Preparation.read_frame

    def pack_and_note(self, index):
        indices.append(index)
        return original(self, index)

    monkeypatch.setattr(Preparation, "read_frame", pack_and_note)
    return indices


def pack(raw, folder, workers=1):
    return prepare(raw, folder, workers=workers, progress=False)


def content(folder):
    """Every file below a folder: its digest by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def rounded(depth):
    """What the packed form keeps of a map whose returns are all within 80 m."""
    steps = np.round(depth.numpy().astype(np.float64) * 204.8).clip(max=2**14 - 1)
    return np.where(depth.numpy() <= 80, steps / 204.8, 0).astype(np.float32)


def assert_same_frames(packed, raw, keys=None):
    assert packed.keys == (raw.keys if keys is None else keys) and packed.size == raw.size
    for index, key in enumerate(packed.keys):
        item, other = packed[index], raw[raw.index(key)]
        assert item["key"] == key and torch.equal(item["image"], other["image"])
        np.testing.assert_array_equal(item["depth"].numpy(), rounded(other["depth"]))


def one_sentence(error):
    text = str(getattr(error, "value", error))
    assert "\n" not in text and len(text) > 30
    return text


# The packed frames


@pytest.mark.parametrize("size", [SIZE, (20, 60), (512, 512)])
def test_frames_are_those_of_the_files(root, folder, size):
    raw = KittiRaw(root, size=size)
    packed = pack(raw, folder, workers=2)
    assert_same_frames(packed, raw)
    assert sorted(content(folder)) == sorted(
        ["images.npy", "depth.npy", "frames.csv", "manifest.json", "left_out.csv"]
    )
    assert not Path(f"{folder}.partial").exists()
    verify(packed)
    assert packed.report().startswith(f"frames: {FRAMES}, drives: 1, left out: 0, lidar in ")


def test_number_of_workers_changes_no_byte(raw, tmp_path, undisturbed):
    for workers in (2, 4):
        assert content(pack(raw, tmp_path / str(workers), workers).folder) == undisturbed


def test_dates_of_different_sizes_are_packed_at_one(root, folder):
    write_textured(root, date="2000_02_02", drive=7, frames=(3, 4), size=(18, 50))
    raw = KittiRaw(root, size=SIZE)
    assert len({raw._shapes[key.date, key.camera] for key in raw.keys}) == 2
    assert_same_frames(pack(raw, folder), raw)
    with pytest.raises(ValueError, match="KITTI's dates differ in theirs: expected KittiRaw"):
        prepare(KittiRaw(root), folder)
    with pytest.raises(ValueError, match="at most 262144 pixels"):
        prepare(KittiRaw(root, size=(513, 512)), folder)


def test_a_map_whose_points_are_all_beyond_the_cap_has_no_codes(root, folder):
    write_frame(root, 1, 85)  # a wall at 95 m
    packed = pack(KittiRaw(root, size=SIZE), folder)
    index = [key.frame for key in packed.keys].index(85)
    assert len(packed) == FRAMES + 2 and not packed.depth(index).any()
    verify(packed)


def test_real_frames(kitti_sample, folder):
    drive = "2011_09_26_drive_0001"
    raw = KittiRaw(kitti_sample / "kitti_raw", size=(256, 832), drives=[drive])
    packed = pack(raw, folder)
    assert_same_frames(packed, raw)
    returns = [(packed.depth(index) > 0).sum().item() for index in range(len(packed))]
    assert len(packed) == 12 and 15_000 < np.mean(returns) < 21_000


# Frames left out


def break_files(root):
    """Break three frames of camera 2; return the start of each one's reason."""
    png = image_path(root, 0)  # the very first frame
    png.write_bytes(png.read_bytes()[:-30])
    scan_path(root, 1).write_bytes(b"")
    behind = np.full((50, 4), -5, np.float32)
    behind.tofile(scan_path(root, 3))
    return {
        png: f"Image {png} cannot be read",
        image_path(root, 1): f"Velodyne scan {scan_path(root, 1)} has 0 bytes",
        image_path(root, 3): f"Velodyne scan {scan_path(root, 3)} has no point in the image",
    }


def test_broken_frames_are_left_out_with_the_reason(root, folder):
    reasons = break_files(root)
    scan_path(root, 4).unlink()
    raw = KittiRaw(root, cameras=(2,), size=SIZE)
    packed = pack(raw, folder, workers=2)
    assert [key.frame for key in packed.keys] == [2]
    assert_same_frames(packed, raw, keys=packed.keys)
    lines = (folder / "left_out.csv").read_text().splitlines()
    assert lines[0] == "file,reason" and packed.manifest.left_out == len(lines) - 1 == 4
    assert f"{image_path(root, 4)},images without a scan" in lines
    for path, reason in reasons.items():
        assert any(line.startswith((f"{path},{reason}", f'{path},"{reason}')) for line in lines)
    verify(packed)


def test_all_broken(root, folder):
    break_files(root)
    raw = KittiRaw(root, cameras=(2,), size=SIZE)
    keys = [key for key in raw.keys if key.frame in (0, 1, 3)]
    with pytest.raises(ValueError, match=r"No frame below .*raw could be read. Velodyne") as error:
        pack(KittiRaw(root, size=SIZE, keys=keys), folder)
    one_sentence(error)
    assert not folder.exists()


# Killed runs

OPERATIONS = {
    "mkdir", "open", "flock", "posix_fallocate", "seek", "write", "close", "replace", "rename",
    "fsync", "rmdir", "unlink", "__exit__", "tofile",
}  # fmt: skip


def killed_at(number, work):
    """Do work in a child that kills itself at its n-th operation on files; say whether it did."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    count = 0

    def watch(frame, event, function):
        nonlocal count
        if event == "c_call" and getattr(function, "__name__", "") in OPERATIONS:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        threading.setprofile(watch)
        sys.setprofile(watch)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def packed_chunks(folder):
    """The frames of the chunks that a killed run has marked as packed."""
    marks = Path(f"{folder}.partial", "chunks").glob("*.json")
    starts = [int(mark.stem) for mark in marks]
    return {index for start in starts for index in range(start, min(start + 3, FRAMES))}


@pytest.mark.parametrize("step", [11, pytest.param(3, marks=pytest.mark.slow)])
def test_killed_at_any_operation_the_same_command_ends_the_same(
    raw, tmp_path, undisturbed, decoded, step
):
    seen, number, spared = set(), step, []
    while True:
        folder = tmp_path / f"killed_{number}"
        if not killed_at(number, lambda folder=folder: pack(raw, folder)):
            break
        if folder.exists():  # whole, or not there under its name
            assert_same_frames(PackedDepth(folder), raw)
            done = set(range(FRAMES))
        else:
            done = packed_chunks(folder)
        seen.add(len(done))
        decoded.clear()
        pack(raw, folder)
        assert content(folder) == undisturbed
        assert not Path(f"{folder}.partial").exists()
        assert sorted(decoded) == sorted(set(range(FRAMES)) - done)
        spared.append(len(done))
        shutil.rmtree(folder)
        number += step
    assert number > 300 and spared == sorted(spared)
    assert seen >= {0, 3, 6, 9, 10}


def test_killed_again_and_again(raw, folder, undisturbed):
    numbers = iter(range(5, 1000, 7))
    kills = 0
    while killed_at(next(numbers), lambda: pack(raw, folder)):
        kills += 1
    assert kills > 3
    assert content(folder) == undisturbed


def test_killed_between_the_name_and_the_tidying(raw, folder, undisturbed, decoded, monkeypatch):
    remove = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(
            shutil,
            "rmtree",
            lambda path, **k: interrupt() if folder.exists() else remove(path, **k),
        )
        with pytest.raises(KeyboardInterrupt):
            pack(raw, folder)
    assert (folder / "chunks").is_dir()
    decoded.clear()
    assert_same_frames(PackedDepth(folder), raw)  # complete already
    pack(raw, folder)
    assert content(folder) == undisturbed and decoded == []


@pytest.mark.slow
def test_kill_9_of_the_script(root, folder, tmp_path, monkeypatch):
    """The real script, killed as its marks of progress appear; its chunks are of 32 frames.

    Only the last time it is started from the command line: that takes seconds.
    """
    write_textured(root, drive=2, frames=range(60))
    options = [root, folder, "--size", "512", "512", "--quiet", "--workers", "1"]
    command = [sys.executable, SCRIPT, *options]
    chunks = Path(f"{folder}.partial", "chunks")
    marked = {}
    for mark in ("source", "00000000.json", "00000064.json"):
        process = start(run_script, SCRIPT, *options)
        while process.is_alive() and not (chunks / mark).exists():
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL and not folder.exists()
        times = {path.name: path.stat().st_mtime_ns for path in chunks.glob("*.json")}
        assert times.items() >= marked.items()  # what was packed is not packed again
        marked = times
    assert 3 <= len(marked) < 5
    done = subprocess.run([*command, "--verify"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{folder}\n"
    assert "frames: 130, drives: 2, left out: 0" in done.stderr
    monkeypatch.setattr(prepare_module, "CHUNK", 32)
    expected = pack(KittiRaw(root, size=(512, 512)), tmp_path / "undisturbed", workers=2)
    assert content(folder) == content(expected.folder)


# What a killed run has left


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


@pytest.fixture
def begun(raw, folder, monkeypatch):
    """The partial folder of a run that was stopped with all chunks packed."""
    with monkeypatch.context() as patch:
        patch.setattr(Preparation, "complete", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pack(raw, folder)
    return Path(f"{folder}.partial")


def flip_bit(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


IMAGE_BYTES = SIZE[0] * SIZE[1] * 3
SECOND = "chunks/00000003"

DAMAGE_TO_A_CHUNK = {
    "image": lambda begun: flip_bit(begun / "images.npy", -IMAGE_BYTES * (FRAMES - 4)),
    "last byte of an image": lambda begun: flip_bit(
        begun / "images.npy", -IMAGE_BYTES * (FRAMES - 6) - 1
    ),
    "codes": lambda begun: flip_bit(begun / f"{SECOND}.u4", 40),
    "codes cut": lambda begun: os.truncate(begun / f"{SECOND}.u4", 100),
    "codes too long": lambda begun: (begun / f"{SECOND}.u4").open("ab").write(b"abcd"),
    "no codes": lambda begun: (begun / f"{SECOND}.u4").unlink(),
    "no outcomes": lambda begun: (begun / f"{SECOND}.json").unlink(),
    "outcomes cut": lambda begun: os.truncate(begun / f"{SECOND}.json", 20),
    "outcomes zero": lambda begun: (begun / f"{SECOND}.json").write_bytes(bytes(50)),
    "outcomes of one frame less": lambda begun: edit(begun / f"{SECOND}.json", r"\[\d+,[^\]]*\],"),
    "another digest": lambda begun: edit(begun / f"{SECOND}.json", r'(?<=")[0-9a-f]{8}', "0" * 8),
    "another count": lambda begun: edit(begun / f"{SECOND}.json", r"(?<=\[)\d+(?=,)", "7"),
    "no number": lambda begun: edit(begun / f"{SECOND}.json", r"(?<=\[)\d+(?=,)", "null"),
    "other json": lambda begun: (begun / f"{SECOND}.json").write_text("5"),
    "deep json": lambda begun: (begun / f"{SECOND}.json").write_text("[" * 100_000),
    "json that is no text": lambda begun: (begun / f"{SECOND}.json").write_bytes(b"\xff\xfe"),
}

DAMAGE_TO_ALL = {
    "images gone": lambda begun: (begun / "images.npy").unlink(),
    "images cut": lambda begun: os.truncate(begun / "images.npy", 1000),
    "images short by a byte": lambda begun: os.truncate(
        begun / "images.npy", (begun / "images.npy").stat().st_size - 1
    ),
    "header": lambda begun: flip_bit(begun / "images.npy", 20),
    "source": lambda begun: (begun / "chunks/source").write_bytes(b"\xff\0"),
    "no source": lambda begun: (begun / "chunks/source").unlink(),
    "no chunks": lambda begun: shutil.rmtree(begun / "chunks"),
}


def edit(path, pattern, replacement=""):
    path.write_text(re.sub(pattern, replacement, path.read_text(), count=1))


def test_a_stopped_run_decodes_nothing_again(raw, folder, undisturbed, begun, decoded):
    pack(raw, folder, workers=3)
    assert content(folder) == undisturbed and decoded == []


@pytest.mark.parametrize("damage", DAMAGE_TO_A_CHUNK.values(), ids=DAMAGE_TO_A_CHUNK)
def test_a_damaged_chunk_is_packed_again(raw, folder, undisturbed, begun, decoded, damage):
    damage(begun)
    pack(raw, folder)
    assert content(folder) == undisturbed and decoded == [3, 4, 5]


@pytest.mark.parametrize("damage", DAMAGE_TO_ALL.values(), ids=DAMAGE_TO_ALL)
def test_what_cannot_be_gone_on_with_is_begun_anew(
    raw, folder, undisturbed, begun, decoded, damage
):
    damage(begun)
    pack(raw, folder)
    assert content(folder) == undisturbed and decoded == list(range(FRAMES))


CHANGES = ["scan", "calibration", "size", "frames", "convention"]


def changed(root, change):
    """Change a file or an option, and return the dataset with it."""
    options = dict(size=SIZE)
    if change == "scan":
        write_frame(root, 1, 2, cameras=())
    elif change == "calibration":
        edit(root / DATE / "calib_cam_to_cam.txt", "40 0 29.5", "42 0 29.5")
    elif change == "size":
        options = dict(size=SIZE[::-1])
    elif change == "frames":
        options |= dict(cameras=(2,))
    else:
        options |= dict(convention="eigen")
    return KittiRaw(root, **options)


@pytest.mark.parametrize("change", CHANGES)
def test_other_sources_or_options_are_packed_anew(root, folder, begun, decoded, tmp_path, change):
    raw = changed(root, change)
    packed = pack(raw, folder)
    assert decoded == list(range(len(raw)))
    assert_same_frames(packed, raw)
    assert content(folder) == content(pack(raw, tmp_path / "fresh").folder)


def test_all_is_on_the_disk_before_the_folder_has_its_name(raw, folder, monkeypatch):
    flushed = set()
    fsync = os.fsync

    def note(descriptor):
        assert not folder.exists()
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    pack(raw, folder)
    assert flushed == {path.stat().st_ino for path in folder.iterdir()}


# What is in the way


def test_two_processes_at_once_the_second_is_refused(raw, folder, undisturbed, decoded):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:  # the first one is at its first frame, and stays there
        Preparation.read_frame = lambda self, index: os.write(writing, b"x") and time.sleep(60)
        pack(raw, folder)
    assert os.read(reading, 1) == b"x"
    before = content(Path(f"{folder}.partial"))
    with pytest.raises(FileExistsError, match="is being prepared by another process: wait") as e:
        pack(raw, folder)
    one_sentence(e)
    assert content(Path(f"{folder}.partial")) == before
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pack(raw, folder)  # what a killed process had locked is free
    assert content(folder) == undisturbed


def test_two_threads_at_once_the_second_is_refused(raw, folder, undisturbed, monkeypatch):
    started, go_on = threading.Event(), threading.Event()
    original = Preparation.read_frame

    def wait(self, index):
        started.set()
        assert go_on.wait(30)
        return original(self, index)

    monkeypatch.setattr(Preparation, "read_frame", wait)
    first = threading.Thread(target=pack, args=(raw, folder))
    first.start()
    assert started.wait(30)
    try:
        with pytest.raises(FileExistsError, match="is being prepared by another process"):
            pack(raw, folder)
    finally:
        go_on.set()
        first.join()
    assert content(folder) == undisturbed


def test_a_complete_folder_is_kept_as_it_is(raw, folder, undisturbed, decoded):
    pack(raw, folder)
    decoded.clear()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert_same_frames(pack(raw, folder), raw)
    assert decoded == [] and content(folder) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_an_empty_folder_is_filled(raw, folder, undisturbed):
    folder.mkdir()
    pack(raw, folder)
    assert content(folder) == undisturbed


def test_a_link_is_followed(raw, folder, tmp_path, undisturbed):
    """The folder grows on the disk that the link leads to."""
    other = tmp_path / "other_disk" / "here"
    other.mkdir(parents=True)
    folder.symlink_to(other)
    assert Preparation(raw, folder).partial.parent == other.parent
    pack(raw, folder)
    assert folder.is_symlink() and content(other) == undisturbed


@pytest.mark.parametrize("what", ["file", "files", "manifest", "mount"])
def test_other_content_is_refused_and_not_touched(raw, folder, decoded, monkeypatch, what):
    if what == "file":
        folder.write_text("notes")
    else:
        folder.mkdir()
        (folder / "manifest.json" if what == "manifest" else folder / "mine.txt").write_text("{}")
    if what == "mount":
        (folder / "mine.txt").unlink()
        monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    before = content(folder.parent)
    with pytest.raises(FileExistsError, match=rf"{folder} (exists and is no|is a whole d)") as e:
        pack(raw, folder)
    one_sentence(e)
    assert content(folder.parent) == before and decoded == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_set_of_other_files_or_options_is_refused_and_not_touched(
    root, raw, folder, decoded, change
):
    pack(raw, folder)
    decoded.clear()
    before = content(folder)
    other = changed(root, change)
    with pytest.raises(FileExistsError, match="from other files or with other options") as error:
        pack(other, folder)
    one_sentence(error)
    assert content(folder) == before and decoded == []
    assert not Path(f"{folder}.partial").exists()


def test_a_disk_too_small_is_refused_before_anything_is_written(raw, folder, monkeypatch):
    needed = Preparation(raw, folder).bytes_needed
    assert FRAMES * IMAGE_BYTES < needed < 2 * FRAMES * IMAGE_BYTES
    usage = shutil.disk_usage(folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(OSError, match=rf"{folder} needs about .* GB are free: free some") as error:
        pack(raw, folder)
    assert error.value.errno == errno.ENOSPC
    assert list(folder.parent.iterdir()) == [raw.root]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert len(pack(raw, folder)) == FRAMES


def test_a_run_that_filled_its_disk_nearly_may_go_on(raw, folder, begun, decoded, monkeypatch):
    """Of the space needed, what the stopped run has taken is no longer free."""
    taken = sum(512 * path.stat().st_blocks for path in begun.rglob("*"))
    needed = Preparation(raw, folder).bytes_needed
    usage = shutil.disk_usage(folder.parent)
    left = max(needed - taken, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=left))
    assert len(pack(raw, folder)) == FRAMES and decoded == []


@pytest.mark.parametrize("point", ["reserving", "codes", "joining"])
def test_a_full_disk_is_named_and_the_next_run_goes_on(
    raw, folder, undisturbed, decoded, monkeypatch, point
):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if point == "reserving":
            patch.setattr(os, "posix_fallocate", full)
        elif point == "codes":
            calls, write = iter(range(100)), Path.write_bytes
            patch.setattr(Path, "write_bytes", lambda *a: full() if next(calls) == 4 else write(*a))
        else:
            patch.setattr(np.lib.format, "write_array_header_1_0", full)
        with pytest.raises(OSError, match=rf"{folder}.partial cannot be written in full") as error:
            pack(raw, folder)
    assert error.value.errno == errno.ENOSPC
    assert "No space left on device): free some space" in one_sentence(error)
    assert not folder.exists()
    decoded.clear()
    pack(raw, folder)
    assert content(folder) == undisturbed
    # Of the chunk after the failed one, a thread may have been at work.
    assert len(decoded) in dict(reserving=[FRAMES], codes=[3, 4], joining=[0])[point]


# The script


@pytest.fixture
def script(monkeypatch, capsys, root, folder):
    """Run the script's main in this process: exit code, output, errors."""
    specification = importlib.util.spec_from_file_location("prepare_kitti", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def run(*arguments, size=SIZE, root=root, folder=folder):
        sides = [str(side) for side in size]
        common = [str(root), str(folder), "--quiet", "--size", *sides]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *common, *arguments])
        try:
            code = module.main()
        except SystemExit as error:
            code = error.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_script_shows_its_plan_and_packs(script, raw, folder, undisturbed):
    code, out, err = script("--dry-run", "--workers", "2")
    plan = rf"frames: 10, .*\nto {folder} at 12x36: 0.00 GB needed, .* GB free, about 00:00 with 2 "
    assert code == 0 and out == "" and re.match(plan, err) and not folder.exists()
    code, out, err = script("--verify")
    assert code == 0 and out == f"{folder}\n" and re.match(plan[:-2], err)
    assert content(folder) == undisturbed
    assert script()[0] == 0


def test_script_packs_chosen_frames(script, root, folder):
    write_textured(root, drive=2, frames=(1, 2))
    assert script("--drives", f"{DATE}_drive_0002", "--cameras", "3")[0] == 0
    assert [key[1:] for key in PackedDepth(folder).keys] == [("0002", 3, 1), ("0002", 3, 2)]
    code, _, err = script("--split", "eigen_train", folder=folder.with_name("other"))
    assert code == 1 and "0 of the split's 45200 images are there" in err
    assert err.endswith(f"prepare_kitti: {root} holds no frame of eigen_train.\n")


def test_script_packs_the_others_when_the_first_frame_is_broken(script, root, folder):
    break_files(root)
    code, out, err = script()
    assert code == 0 and out == f"{folder}\n" and "frames: 5, drives: 1, left out: 5" in err


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["--cameras", "0"], {}, "holds no images"),
        (["--drives", "2011_09_26_drive_0001"], {}, "is not below"),
        ([], dict(size=(600, 600)), r"size is \(600, 600\): expected .* 262144 pixels"),
        ([], dict(size=(0, 5)), r"size is \(0, 5\), expected"),
        ([], dict(root="/nowhere"), "Folder /nowhere is missing: expected DATE/"),
        ([], dict(root="/dev"), "Folder /dev holds no drive: expected"),
        ([], dict(folder="/dev/null"), "/dev/null exists and is no packed set"),
        ([], dict(folder="/dev/null/packed"), "Not a directory: '/dev/null/packed.partial'"),
    ],
)
def test_script_says_in_one_line_what_is_wrong(script, arguments, options, message):
    code, out, err = script(*arguments, **options)
    assert code == 1 and out == ""
    assert re.fullmatch(rf"prepare_kitti: .*{message}.*", err.splitlines()[-1])
    assert "Traceback" not in err


@pytest.mark.parametrize("workers", ["0", "-2", "two"])
def test_script_refuses_a_number_of_workers_that_is_none(script, workers):
    code, _, err = script("--workers", workers)
    assert code == 2 and "argument --workers: " in err


def test_script_that_is_interrupted_says_that_it_goes_on(script, monkeypatch, folder, undisturbed):
    with monkeypatch.context() as patch:
        patch.setattr(Preparation, "complete", interrupt)
        code, out, err = script()
    assert code == 130 and out == "" and "the same command goes on where it was" in err
    assert script()[0] == 0 and content(folder) == undisturbed


def test_script_on_files_that_may_not_grow(script, folder, undisturbed):
    """The kernel's own refusal, as of a quota or a file system that takes no large files."""
    child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
            code, _, err = script()
            said = f"prepare_kitti: [Errno 27] {folder}.partial cannot be written in full (File"
            os._exit(code if err.splitlines()[-1].startswith(said) else 99)
        finally:
            os._exit(98)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert script()[0] == 0 and content(folder) == undisturbed


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_script_without_permission(script, folder):
    folder.parent.chmod(0o500)
    code, _, err = script()
    folder.parent.chmod(0o700)
    assert code == 1 and "Permission denied" in err.splitlines()[-1]


NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.mark.slow
def test_script_on_disks_that_are_really_full_or_read_only(root, tmp_path):
    """A disk of its own, first too small for the codes, then larger, then read-only."""
    if not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"]).returncode:
        pytest.skip("user namespaces are needed to mount a disk")
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    write_textured(root, drive=2, frames=range(40))
    # Half of the pixels have a return here, more than in any real scan, so the plan is too low.
    images = 90 * 32 * 96 * 3
    steps = f"""if True:
        import os, runpy, sys

        def script(folder, which):
            options = "--size 32 96 --workers 1 --quiet".split()
            sys.argv = [{str(SCRIPT)!r}, {str(root)!r}, folder, *options]
            try:
                runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
            except SystemExit as end:
                print(which, end.code, flush=True)

        os.system("mount -t tmpfs -o size={images + 90 * 32 * 96} tmpfs {disk}")
        script("{disk}/packed", "first")
        os.system("ls -A {disk} {disk}/packed.partial/chunks")
        os.system("mount -o remount,size=100m {disk}")
        script("{disk}/packed", "second")
        os.system("cp -r {disk}/packed {copy}")
        os.system("mount -o remount,ro {disk}")
        script("{disk}/other", "third")
    """
    command = [*NAMESPACE, sys.executable, "-c", steps]  # torch takes seconds to import: once
    done = subprocess.run(command, capture_output=True, text=True)
    out, err = done.stdout, done.stderr
    assert re.search(r"first 1\n.*\npacked.partial\n(.*\n)*00000000.json\n", out)
    assert f"{disk}/packed.partial cannot be written in full (No space left on device): " in err
    assert f"{disk}/packed\nsecond 0\n" in out and "third 1\n" in out
    assert f"Read-only file system: '{disk}/other.partial'" in err and "Traceback" not in err
    packed = PackedDepth(copy)
    verify(packed)
    assert_same_frames(packed, KittiRaw(root, size=(32, 96)))
