"""Splits by name, of all of KITTI and of parts of it; what is packed and what packing takes."""

import re

import pytest

from experiments.depth.data import split_data
from experiments.depth.packing import find_split, packing_costs, split_frames
from named_splits import LOST, NAMES, counts, eigen_tests_in
from small_kitti import DATE, image_path, scan_path, write_textured
from ubnlib.kitti import FrameKey, KittiRaw, PackedDepth, load_split, prepare
from ubnlib.kitti.prepare import Preparation


def test_a_named_split_never_becomes_another():
    """One frame of 44,352 lost, one drive, one camera: the rest of the lists, and what is gone."""
    assert len(NAMES) == 44_352
    everything = sorted({*NAMES, *load_split("eigen_train"), *load_split("eigen_test_697")})
    for available in (NAMES, everything):
        split = split_frames(available, "paper_standin")
        assert counts(split) == [41_872, 0, 2_480, 0] and not eigen_tests_in(split)
    lost = FrameKey("2011_09_26", "0001", 2, 7)
    split = split_frames([key for key in everything if key != lost], "paper_standin")
    assert counts(split) == [41_871, 1, 2_480, 0] and split.train.missing == (lost,)
    assert f"of 1 of 30 drives: {LOST} has 215 of 216" in split.report()
    split = split_frames([k for k in everything if k.drive_name != LOST], "paper_standin")
    assert counts(split) == [41_872 - 216, 216, 2_480, 0] and not eigen_tests_in(split)
    assert f"{LOST} has 0 of 216" in split.report()
    left = [key for key in everything if key.camera == 2]
    assert counts(split_frames(left, "paper_standin", (2,))) == [20_936, 0, 1_240, 0]
    assert counts(split_frames(left, "paper_standin")) == [20_936, 20_936, 1_240, 1_240]
    assert counts(split_frames(left, "eigen", [2])) == [22_600, 0, 697, 0]
    split = split_frames(everything, "by_drive")
    assert len(eigen_tests_in(split)) > 10 and "may be called an Eigen result" in split.report()
    assert "Eigen" not in split_frames(everything, "eigen").report()


def test_a_split_without_a_side_is_refused():
    right, other = [k for k in NAMES if k.camera == 3], [FrameKey(DATE, "0001", 2, 0)]
    for available, name, cameras, message in (
        (right, "eigen", (3,), r"eigen, \d+ of 22600 images to train on and 0 of 0 to test on"),
        (other, "eigen", (2, 3), "0 of 45200 images to train on and 0 of 697 to test on"),
        (other, "by_drive", (2, 3), "0 of 0 images to train on and 1 of 1 to test on"),
        (other, "usual", (2,), "There is no split 'usual': expected one of paper_standin, eigen"),
    ):
        with pytest.raises(ValueError, match=message):
            split_frames(available, name, cameras)


@pytest.mark.parametrize(("drives", "tested"), [(2, 1), (4, 1), (6, 2), (8, 2), (61, 15)])
def test_by_drive_tests_on_the_last_quarter(drives, tested):
    keys = [FrameKey(DATE, f"{d:04d}", 2, frame) for d in range(drives) for frame in range(3)]
    split = split_frames(keys, "by_drive")
    assert split.train.present + split.test.present == tuple(keys)
    assert len(split.test.drives) == tested and not split.train.drives.keys() & split.test.drives


# Preparing and running


@pytest.fixture
def root(tmp_path):
    for drive in (1, 2, 3):
        write_textured(tmp_path / "raw", drive=drive, frames=range(3))
    return tmp_path / "raw"


def test_a_broken_frame_is_on_no_side_of_preparing_and_running(root, tmp_path):
    image_path(root, 1).write_bytes(b"no image")
    image_path(root, 2, drive=3).write_bytes(b"no image")
    raw, _ = find_split(root, split="by_drive", cameras=(2, 3), size=(12, 36))
    data = split_data(prepare(raw, tmp_path / "packed"), "by_drive")
    assert (len(data.train), len(data.test)) == (11, 5)
    again = split_data(PackedDepth(tmp_path / "packed"), "by_drive")
    assert again.fingerprint == data.fingerprint
    some = split_data(data.frames, "by_drive", test_every=2)
    assert {key.frame for key in some.test_keys} == {0, 2} and len(some.test) == 3


def test_packing_says_what_is_left_out_and_what_it_takes(root, tmp_path):
    scan_path(root, 1).unlink()
    write_textured(root, date="2000_02_02", drive=9, frames=(0,))
    (root / "2000_02_02" / "calib_cam_to_cam.txt").unlink()
    raw, _ = find_split(root, split="by_drive", cameras=(2, 3), size=(12, 36))
    said = packing_costs(Preparation(raw, tmp_path / "packed"), 2)
    assert re.search(
        r"calib_cam_to_cam.txt is missing[^:]*: [^:]*: 2, images without a scan: 2", said
    )
    assert "GB needed" in said and "min with 2 workers" in said
    assert len(KittiRaw(root).left_out) == len(raw.left_out) == 4
