"""All of the stand-in split as empty files of its names: what is there, and what is missing."""

import os
import shutil
from collections import defaultdict

from experiments.depth.packing import find_split
from named_splits import LOST, NAMES, counts, eigen_tests_in
from small_kitti import CAM_TO_CAM, VELO_TO_CAM
from ubnlib.kitti.prepare import Preparation


def write_empty(root):
    """Write the stand-in's 44,352 images and their scans as empty files, and calibrations."""
    frames = defaultdict(set)
    for key in NAMES:
        drive = f"{root}/{key.date}/{key.drive_name}_sync"
        frames[f"{drive}/image_{key.camera:02d}/data", "png"].add(key.frame)
        frames[f"{drive}/velodyne_points/data", "bin"].add(key.frame)
    for (folder, suffix), numbers in frames.items():
        os.makedirs(folder)
        for number in numbers:
            os.close(os.open(f"{folder}/{number:010d}.{suffix}", os.O_CREAT))
    for date in {key.date for key in NAMES}:
        (root / date / "calib_cam_to_cam.txt").write_text(CAM_TO_CAM)
        (root / date / "calib_velo_to_cam.txt").write_text(VELO_TO_CAM)


def test_whole_kitti_by_its_files(tmp_path):
    write_empty(tmp_path)
    folder = tmp_path / "2011_09_26" / f"{LOST}_sync"
    (folder / "velodyne_points/data/0000000007.bin").unlink()
    raw, split = find_split(tmp_path, split="paper_standin", cameras=(2, 3), size=(256, 832))
    assert counts(split) == [41_870, 2, 2_480, 0] and not eigen_tests_in(split)
    assert len(raw) == 44_350
    assert [reason for _, reason in raw.left_out] == ["images without a scan"] * 2
    assert 30 < Preparation(raw, tmp_path / "packed").bytes_needed / 1e9 < 40
    shutil.rmtree(folder)
    _, split = find_split(tmp_path, split="paper_standin", cameras=(2,), size=(256, 832))
    assert counts(split) == [20_936 - 108, 108, 1_240, 0]
    shutil.rmtree(tmp_path)  # so many files are not kept
