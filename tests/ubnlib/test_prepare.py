"""Preparation: the packed frames, a run killed at any stage, damage, and whatever is in the way."""

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import filelock  # noqa: F401  (a first import takes time in a child)
import numpy as np
import pytest
import torch

from prepare_kitti import verify
from small_kitti import DATE, image_path, scan_path, write_frame, write_textured
from ubnlib.kitti import KittiRaw, PackedDepth
from ubnlib.kitti.prepare import Preparation, prepare

SCRIPT = Path(__file__).parents[2] / "data_scripts" / "prepare_kitti.py"
SIZE = (12, 36)
FRAMES = 12  # of the fixture, in 4 chunks

prepare_module = sys.modules["ubnlib.kitti.prepare"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK", 3)


@pytest.fixture
def root(tiny_kitti, tmp_path):
    return shutil.copytree(tiny_kitti, tmp_path / "raw")


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
    verify(packed)


def refused(raw, folder, message, kind=FileExistsError):
    with pytest.raises(kind, match=message) as error:
        pack(raw, folder)
    assert "\n" not in str(error.value)
    return error.value


# The packed frames


@pytest.mark.parametrize("size", [SIZE, (512, 512)])
def test_frames_are_those_of_the_files(root, folder, size):
    write_frame(root, 1, 85)  # a wall at 95 m, beyond the cap
    raw = KittiRaw(root, size=size)
    packed = pack(raw, folder, workers=2)
    assert_same_frames(packed, raw)
    far = [index for index, key in enumerate(packed.keys) if key.frame == 85]
    assert len(far) == 2 and not any(packed.depth(index).any() for index in far)
    assert sorted(content(folder)) == sorted(
        ["images.npy", "depth.npy", "frames.csv", "manifest.json", "left_out.csv"]
    )
    assert not Path(f"{folder}.partial").exists()
    assert packed.report().startswith(f"frames: {FRAMES + 2}, drives: 2, left out: 0, lidar in ")


def test_dates_of_different_sizes_are_packed_at_one(root, folder):
    write_textured(root, date="2000_02_02", drive=7, frames=(3, 4), size=(18, 50))
    raw = KittiRaw(root, size=SIZE)
    assert_same_frames(pack(raw, folder), raw)
    refused(KittiRaw(root), folder, "KITTI's dates differ in theirs: expected KittiRaw", ValueError)


def test_real_frames(kitti_sample, folder):
    drive = "2011_09_26_drive_0001"
    raw = KittiRaw(kitti_sample / "kitti_raw", size=(256, 832), drives=[drive])
    packed = pack(raw, folder)
    assert_same_frames(packed, raw)
    returns = [(packed.depth(index) > 0).sum().item() for index in range(len(packed))]
    assert len(packed) == 12 and 15_000 < np.mean(returns) < 21_000


def break_files(root):
    """Break three frames of camera 2 of drive 1; return the start of each one's reason."""
    png = image_path(root, 0)  # the very first frame
    png.write_bytes(png.read_bytes()[:-30])
    scan_path(root, 1).write_bytes(b"")
    np.full((50, 4), -5, np.float32).tofile(scan_path(root, 2))
    return {
        png: f"Image {png} cannot be read",
        image_path(root, 1): f"Velodyne scan {scan_path(root, 1)} has 0 bytes",
        image_path(root, 2): f"Velodyne scan {scan_path(root, 2)} has no point in the image",
    }


def test_broken_frames_are_left_out_with_the_reason(root, folder):
    reasons = break_files(root)
    scan_path(root, 0, drive=2).unlink()
    raw = KittiRaw(root, cameras=(2,), size=SIZE)
    packed = pack(raw, folder, workers=2)
    assert [key[1::2] for key in packed.keys] == [("0002", 1), ("0002", 2)]
    assert_same_frames(packed, raw, keys=packed.keys)
    lines = (folder / "left_out.csv").read_text().splitlines()
    assert lines[0] == "file,reason" and packed.manifest.left_out == len(lines) - 1 == 4
    assert f"{image_path(root, 0, drive=2)},images without a scan" in lines
    for path, reason in reasons.items():
        assert any(line.startswith((f"{path},{reason}", f'{path},"{reason}')) for line in lines)
    broken = KittiRaw(root, size=SIZE, keys=raw.keys[:3])
    refused(broken, folder.with_name("other"), "No frame below .*raw could be read. V", ValueError)
    assert not folder.with_name("other").exists()


def test_what_was_left_out_is_tried_again(root, folder, undisturbed, decoded):
    """Repaired frames and new ones join what is there, of which nothing is decoded again."""
    broken = [image_path(root, 0), image_path(root, 2, camera=3), scan_path(root, 1, drive=2)]
    good = [path.read_bytes() for path in broken]
    for path in broken[:2]:
        path.write_bytes(b"no image")
    broken[2].unlink()
    assert len(pack(KittiRaw(root, size=SIZE), folder)) == FRAMES - 4
    before = content(folder)
    decoded.clear()
    assert len(pack(KittiRaw(root, size=SIZE), folder)) == FRAMES - 4
    assert content(folder) == before and decoded == [0, 5]  # only what might have been repaired
    broken[0].write_bytes(good[0])
    opened = PackedDepth(folder)
    packed = pack(KittiRaw(root, size=SIZE), folder)
    assert len(packed) == FRAMES - 3 and packed.manifest.left_out == 3
    assert torch.equal(opened.image(0), packed.image(packed.index(opened.keys[0])))  # still open
    for path, data in zip(broken[1:], good[1:], strict=True):
        path.write_bytes(data)
    raw = KittiRaw(root, size=SIZE)
    pack(raw, folder)
    assert content(folder) == undisturbed
    assert [path.name for path in folder.parent.glob("packed*")] == ["packed"]
    pack(KittiRaw(root, size=SIZE, keys=raw.keys[:-2]), folder.with_name("more"))
    image = folder.with_name("more") / "images.npy"
    flip_bit(image, -5)  # what is damaged there is read from its files instead
    pack(raw, folder.with_name("more"))
    assert content(folder.with_name("more")) == undisturbed


@pytest.mark.parametrize(("name", "call"), [("rename", 1), ("rename", 2), ("mkdir", 2)])
def test_killed_as_frames_are_added_nothing_is_lost(root, raw, folder, undisturbed, name, call):
    pack(KittiRaw(root, size=SIZE, keys=raw.keys[:-2]), folder)
    assert killed(raw, folder, Path, name, call)
    pack(raw, folder)
    assert content(folder) == undisturbed
    assert [path.name for path in folder.parent.glob("packed*")] == ["packed"]


# Killed and stopped runs


def killed(raw, folder, owner, name, call):
    """Pack in a child that kills itself as a function is called for the n-th time."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    original, calls = getattr(owner, name), iter(range(1, 1000))

    def kill(*arguments, **options):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    try:
        setattr(owner, name, kill)
        pack(raw, folder)
    finally:
        os._exit(1)


def test_killed_at_any_stage_the_same_command_goes_on(raw, folder, undisturbed, decoded):
    """One folder, killed again and again: all but the unfinished chunk is kept."""
    for owner, name, call, again in (
        (Preparation, "reserve", 1, None),
        (Preparation, "read_frame", 5, {0, 1, 2}),  # in the second chunk
        (Path, "replace", 2, {0, 1, 2, 3, 4, 5}),  # the third chunk has no mark yet
        (Preparation, "join", 1, set(range(FRAMES))),
    ):
        assert killed(raw, folder, owner, name, call), name
        assert not folder.exists()
        marks = Path(f"{folder}.partial", "chunks").glob("*.json")
        done = {int(mark.stem) + more for mark in marks for more in range(3)}
        assert done == (again or set()), name
    pack(raw, folder)
    assert decoded == [] and content(folder) == undisturbed
    shutil.rmtree(folder)
    assert killed(raw, folder, shutil, "rmtree", 2)  # between the name and the tidying
    assert (folder / "chunks").is_dir()
    assert_same_frames(PackedDepth(folder), raw)  # complete already
    decoded.clear()
    pack(raw, folder)
    assert content(folder) == undisturbed and decoded == []


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


def edit(path, pattern, replacement=""):
    path.write_text(re.sub(pattern, replacement, path.read_text(), count=1))


IMAGE_BYTES = SIZE[0] * SIZE[1] * 3
SECOND = "chunks/00000003"
CHUNK, ALL = [3, 4, 5], list(range(FRAMES))

DAMAGE = {
    "image": (CHUNK, lambda b: flip_bit(b / "images.npy", -IMAGE_BYTES * (FRAMES - 4))),
    "codes": (CHUNK, lambda b: flip_bit(b / f"{SECOND}.u4", 40)),
    "codes cut": (CHUNK, lambda b: os.truncate(b / f"{SECOND}.u4", 100)),
    "a frame less": (CHUNK, lambda b: edit(b / f"{SECOND}.json", r"\[\d+,[^\]]*\],")),
    "deep json": (CHUNK, lambda b: (b / f"{SECOND}.json").write_text("[" * 100_000)),
    "images gone": (ALL, lambda b: (b / "images.npy").unlink()),
    "source": (ALL, lambda b: (b / "chunks/source").write_bytes(b"\xff\0")),
}


@pytest.mark.parametrize(("again", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_packed_again(raw, folder, undisturbed, begun, decoded, again, damage):
    damage(begun)
    pack(raw, folder)
    assert content(folder) == undisturbed and decoded == again


def new_scan(root):
    write_frame(root, 1, 2, cameras=())


def new_calibration(root):
    edit(root / DATE / "calib_cam_to_cam.txt", "40 0 29.5", "42 0 29.5")


@pytest.mark.parametrize(
    "change", [new_scan, new_calibration, dict(size=(36, 12)), dict(cameras=(2,))]
)
def test_other_sources_or_options_are_refused_where_complete_and_else_packed_anew(
    root, raw, folder, begun, decoded, change
):
    whole = pack(raw, folder.with_name("whole")).folder
    if callable(change):
        change(root)
    options = dict(size=SIZE) | ({} if callable(change) else change)
    other, before = KittiRaw(root, **options), content(whole)
    decoded.clear()
    refused(other, whole, "from other files or with other options")
    assert content(whole) == before and decoded == []
    assert not Path(f"{whole}.partial").exists()
    packed = pack(other, folder)
    assert decoded == list(range(len(other)))
    assert_same_frames(packed, other)


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


def test_two_processes_at_once_the_second_is_refused(raw, folder, undisturbed):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:  # the first one is at its first frame, and stays there
        Preparation.read_frame = lambda self, index: os.write(writing, b"x") and time.sleep(60)
        pack(raw, folder)
    assert os.read(reading, 1) == b"x"
    before = content(Path(f"{folder}.partial"))
    refused(raw, folder, "is being prepared by another process: wait")
    assert content(Path(f"{folder}.partial")) == before
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pack(raw, folder)  # what a killed process had locked is free
    assert content(folder) == undisturbed


def test_a_complete_folder_is_kept_and_an_empty_one_or_a_link_is_filled(
    raw, folder, tmp_path, undisturbed, decoded
):
    other = tmp_path / "other_disk" / "here"
    other.mkdir(parents=True)
    folder.symlink_to(other)
    assert Preparation(raw, folder).partial.parent == other.parent  # grows on its disk
    pack(raw, folder, workers=4)  # their number changes no byte
    assert folder.is_symlink() and content(other) == undisturbed
    decoded.clear()
    assert_same_frames(pack(raw, folder), raw)
    assert decoded == [] and content(other) == undisturbed


@pytest.mark.parametrize("name", ["", "mine.txt", "manifest.json"])
def test_other_content_is_refused_and_not_touched(raw, folder, decoded, name):
    if name:
        folder.mkdir()
    (folder / name).write_text("{}")
    before = content(folder.parent)
    refused(raw, folder, f"{folder} exists and is no")
    assert content(folder.parent) == before and decoded == []


def test_a_disk_too_small_is_refused_before_anything_is_written(raw, folder, monkeypatch):
    needed = Preparation(raw, folder).bytes_needed
    usage = shutil.disk_usage(folder.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    error = refused(raw, folder, rf"{folder} needs about .* GB are free: free some", OSError)
    assert error.errno == errno.ENOSPC
    assert list(folder.parent.iterdir()) == [raw.root]


def test_a_full_disk_is_named_and_the_next_run_goes_on(raw, folder, undisturbed, monkeypatch):
    calls, write = iter(range(100)), Path.write_bytes

    def full(*arguments):
        if next(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        message = rf"{folder}.partial cannot be written in full \(No space left on device\): free"
        assert refused(raw, folder, message, OSError).errno == errno.ENOSPC
    assert not folder.exists()
    pack(raw, folder)
    assert content(folder) == undisturbed


# The script


@pytest.fixture
def script(monkeypatch, capsys, root, folder):
    """Run the script's main in this process: exit code, output, errors."""
    specification = importlib.util.spec_from_file_location("prepare_kitti", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def run(*arguments, folder=folder):
        words = (SCRIPT, root, folder, "--quiet", "--size", *SIZE, *arguments)
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        code = module.main()
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_script_shows_its_plan_is_interrupted_and_packs(script, folder, undisturbed, monkeypatch):
    code, out, err = script("--dry-run", "--workers", "2")
    plan = rf"frames: 12, .*\nto {folder} at 12x36: 0.00 GB needed, .* GB free, about 0 min with 2 "
    assert code == 0 and out == "" and re.match(plan, err) and not folder.exists()
    with monkeypatch.context() as patch:
        patch.setattr(Preparation, "complete", interrupt)
        code, out, err = script()
    assert code == 130 and out == "" and "the same command goes on where it was" in err
    code, out, err = script("--verify")
    assert code == 0 and out == f"{folder}\n" and re.match(plan[:-2], err)
    assert content(folder) == undisturbed


def test_script_refuses_less_than_one_worker(script, capsys):
    with pytest.raises(SystemExit):
        script("--workers", "-1")
    assert "--workers: '-1' is not a whole number from 1 on." in capsys.readouterr().err


def test_script_packs_chosen_frames_and_passes_over_broken_ones(script, root, folder):
    break_files(root)
    assert script("--drives", f"{DATE}_drive_0002", "--cameras", "3")[0] == 0
    assert [key[1:3] for key in PackedDepth(folder).keys] == [("0002", 3)] * 3
    code, _, err = script(folder=folder.with_name("broken"))
    assert code == 0 and "frames: 7, drives: 2, left out: 5" in err
    code, _, err = script("--split", "eigen", folder=folder.with_name("other"))
    assert code == 1 and "Of split eigen, 0 of 45200 images to train on" in err
    assert script("--split", "by_drive", folder=folder.with_name("other"))[0] == 0
