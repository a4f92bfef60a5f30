"""The catalog of drives against the published totals and lists."""

import re
from collections import Counter, defaultdict

import pytest

from kitti_download.catalog import (
    EIGEN_TEST_DRIVES,
    Drive,
    calibration_archive,
    choose_drives,
    load_catalog,
)


def test_counts_are_the_published_ones():
    drives, frames = Counter(), Counter()
    for drive in load_catalog():
        drives[drive.category] += 1
        frames[drive.category] += drive.frames
    assert drives == {"City": 28, "Residential": 21, "Road": 12}
    assert frames == {"City": 8311, "Residential": 28277, "Road": 5794}


def test_eigen_splits_have_the_published_counts():
    train, test = choose_drives(split="eigen_train"), choose_drives(split="eigen_test")
    assert (len(train), sum(drive.frames for drive in train)) == (33, 23488)
    assert (len(test), sum(drive.frames for drive in test)) == (28, 18894)
    assert sorted([*train, *test]) == sorted(load_catalog()) == sorted(choose_drives(split="all"))


def test_names_are_those_of_drives_sorted_and_unique():
    names = [drive.name for drive in load_catalog()]
    assert all(re.fullmatch(r"2011_(09_2[689]|09_30|10_03)_drive_\d{4}", name) for name in names)
    assert names == sorted(set(names))


def test_a_drive_knows_its_archive():
    drive = Drive("2011_09_26_drive_0048", "City", 22)
    assert drive in load_catalog()
    assert drive.date == "2011_09_26"
    assert drive.archive == "raw_data/2011_09_26_drive_0048/2011_09_26_drive_0048_sync.zip"
    assert drive.estimated_bytes == 22 * 4_090_000
    assert calibration_archive(drive.date) == "raw_data/2011_09_26_calib.zip"


def test_the_estimate_of_all_is_what_kitti_says():
    assert sum(drive.estimated_bytes for drive in load_catalog()) == pytest.approx(
        173.4e9, rel=2e-3
    )


def test_scans_are_missing_in_one_drive_alone():
    lacking = {drive.name: drive.frames - drive.scans for drive in load_catalog()}
    assert {name: count for name, count in lacking.items() if count} == {"2011_09_26_drive_0009": 4}


def test_drives_are_chosen_by_name_with_or_without_sync():
    names = ["2011_09_26_drive_0052_sync", "2011_09_26_drive_0001", "2011_09_26_drive_0001"]
    assert [drive.frames for drive in choose_drives(names)] == [108, 78]
    assert [drive.frames for drive in choose_drives(names, "eigen_test")] == [78]


@pytest.mark.parametrize(
    ("drives", "split", "message"),
    [
        (["2011_09_26_drive_0003"], None, "Unknown drives 2011_09_26_drive_0003: expected"),
        (["0001"], None, "Unknown drives 0001"),
        (None, "eigen", "no split 'eigen': choose one of all, eigen_train, eigen_test"),
        (["2011_09_26_drive_0001"], "eigen_test", "No drive is left to choose of 1 named in split"),
        ([], None, "No drive is left to choose of 0 named in split 'all'"),
    ],
)
def test_a_wrong_choice_is_refused(drives, split, message):
    with pytest.raises(ValueError, match=message):
        choose_drives(drives, split)


@pytest.fixture
def lists(kitti_sample):
    folder = kitti_sample / "splits"
    if not folder.is_dir():
        pytest.skip(f"the published lists are needed: {folder} is missing")
    return folder


def test_test_drives_are_those_of_the_published_list(lists):
    assert set((lists / "test_scenes_eigen.txt").read_text().split()) == EIGEN_TEST_DRIVES


def test_no_published_frame_lies_beyond_its_drive(lists):
    last = defaultdict(int)
    for path in lists.glob("eigen_*.txt"):
        for line in path.read_text().splitlines():
            folder, frame, *_ = line.split()
            name = folder.split("/")[1].removesuffix("_sync")
            last[name] = max(last[name], int(frame))
    for line in (lists / "static_frames.txt").read_text().splitlines():
        _, folder, frame = line.split()
        last[folder.removesuffix("_sync")] = max(last[folder.removesuffix("_sync")], int(frame))
    assert all(last[drive.name] < drive.frames for drive in load_catalog())
    train = choose_drives(split="eigen_train")
    reached = [drive.name for drive in train if last[drive.name] == drive.frames - 1]
    assert len(reached) >= len(train) - 1  # the list of 2011_10_03_drive_0042 stops one frame early
