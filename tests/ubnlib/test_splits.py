"""Splits against their counts and published lists, sets of frames as text, and fewer labels."""

import hashlib
import importlib.util
import re
import sys
from collections import Counter
from itertools import compress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitti_drives import EIGEN_TEST_DRIVES, load_catalog
from ubnlib.kitti import splits
from ubnlib.kitti.raw import FrameKey
from ubnlib.kitti.splits import (
    LAST_FRAME,
    SPLITS,
    compact,
    digest,
    expand,
    keep_every,
    load_split,
    select,
)

LISTS = Path(splits.__file__).parent / "split_lists"
SCRIPT = Path(__file__).parents[2] / "data_scripts" / "make_splits.py"
quickly = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def shipped():
    return {name: set(load_split(name)) for name in SPLITS}


def drives(keys):
    return {key.drive_name for key in keys}


@pytest.mark.parametrize(
    ("name", "count", "n_drives", "fingerprint"),
    [
        ("eigen_train", 45_200, 33, "d0bc3b1502222cf3"),
        ("eigen_val", 1_776, 33, "6cf5266f1df838ac"),
        ("eigen_test_697", 697, 28, "287d80b82418ba24"),
        ("eigen_test_652", 652, 28, "4b525d2a7d18b10b"),
        ("paper_standin_train", 41_872, 30, "0b37e901ff3fa732"),
        ("paper_standin_val", 2_480, 3, "71dfc653355d8e6c"),
    ],
)
def test_counts_drives_digests_and_cameras(name, count, n_drives, fingerprint):
    keys = load_split(name)
    assert len(keys) == len(set(keys)) == SPLITS[name].count == count
    assert keys == sorted(keys)
    assert len(drives(keys)) == n_drives
    assert digest(keys) == fingerprint
    left = count if "test" in name else count // 2
    assert Counter(key.camera for key in keys) == Counter({2: left, 3: count - left})
    lines = (LISTS / f"{name}.txt").read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert comments[0] == f"# {SPLITS[name].description}."
    assert comments[1].startswith(f"# Count: {count:,} images, ")
    assert lines == comments + compact(keys)


def test_no_frame_is_in_two_splits_and_no_drive_in_train_and_test(shipped):
    assert not shipped["eigen_train"] & shipped["eigen_val"]
    assert not drives(shipped["eigen_train"] | shipped["eigen_val"]) & EIGEN_TEST_DRIVES
    assert drives(shipped["eigen_test_652"]) == drives(shipped["eigen_test_697"])
    assert drives(shipped["eigen_test_697"]) == EIGEN_TEST_DRIVES
    assert shipped["eigen_test_652"] < shipped["eigen_test_697"]
    frames = {drive.name: drive.frames for drive in load_catalog()}
    assert all(key.frame < frames[key.drive_name] for key in shipped["eigen_test_697"])


def test_unknown_changed_or_missing_lists_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no split 'eigen'.*eigen_train, .*paper_standin_val"):
        load_split("eigen")
    monkeypatch.setattr(splits.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"eigen_test_697\.txt is missing.*install"):
        load_split("eigen_test_697")
    whole = (LISTS / "eigen_test_697.txt").read_text()
    (tmp_path / "split_lists").mkdir()
    for text, message in (
        (whole[: len(whole) // 2].rpartition("\n")[0], r"697\.txt .* names \d+ images: expected 6"),
        (whole + "junk\n", r"Line \d+ of split_lists/eigen_test_697\.txt is 'junk'"),
    ):
        (tmp_path / "split_lists" / "eigen_test_697.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_split("eigen_test_697")


# Parts of a split

some_keys = st.builds(
    FrameKey,
    st.just("2000_01_01"),
    st.sampled_from(["0001", "0002"]),
    st.just(2),
    st.integers(0, 9),
)


@given(st.lists(some_keys, unique=True), st.sets(some_keys))
@quickly
def test_select_finds_what_is_there(available, wanted):
    selection = select(available, wanted)
    assert selection.present == tuple(key for key in available if key in wanted)
    assert selection.missing == tuple(sorted(wanted - set(available)))
    for name, (here, total) in selection.drives.items():
        assert total == sum(key.drive_name == name for key in wanted) > 0
        assert here == sum(key.drive_name == name for key in wanted & set(available))
        assert (f"{name} has {here} of {total}" in selection.report()) == (here < total)
    assert list(selection.drives) == sorted(drives(wanted))
    some = f"{len(selection.present)} of " if selection.missing else ""
    assert selection.report().startswith(f"{some}{len(wanted)} images")


# Sets of frames as text

DRIVE = "2011_09_26_drive_0001"

# Few drives and numbers, so that cameras often share frames and runs are frequent.
keys = st.builds(
    FrameKey,
    st.sampled_from(["2011_09_26", "2000_01_01"]),
    st.sampled_from(["0001", "0002"]),
    st.sampled_from([2, 3]),
    st.integers(0, 30) | st.integers(LAST_FRAME - 5, LAST_FRAME),
)


def frames(*numbers, camera=2, date="2011_09_26", drive="0001"):
    return [FrameKey(date, drive, camera, number) for number in numbers]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([*range(104), 107], "0-103 107"),
        (range(0, 1104, 16), "0-1088/16"),
        ([1, 3, 5, 6, 7, 8], "1-5/2 6-8"),
        ([9, 8, 8, 1, 999_999], "1 8-9 999999"),
    ],
)
def test_ranges_are_written_as_a_person_would(numbers, text):
    assert compact(frames(*numbers)) == [f"{DRIVE} 2 {text}"]
    assert expand([f"{DRIVE} 2 {text}"]) == frames(*sorted(set(numbers)))


def test_lines_are_sorted_and_cameras_with_the_same_frames_share_one():
    left, right, gray = frames(1, 2, 3), frames(1, 2, 3, camera=3), frames(2, 3, camera=0)
    assert compact(right + left) == [f"{DRIVE} 2,3 1-3"]
    other = frames(7, date="2000_01_01", drive="0009")
    lines = ["2000_01_01_drive_0009 2 7", f"{DRIVE} 0,3 2-3", f"{DRIVE} 2 1-3"]
    assert compact(left + right[1:] + gray + other) == lines
    text = "".join(f"{line}\n" for line in lines).encode()
    assert digest(left + right[1:] + gray + other) == hashlib.sha256(text).hexdigest()[:16]


@given(st.lists(keys, max_size=40), st.randoms())
@quickly
def test_reading_inverts_writing_whatever_the_order(chosen, random):
    lines = compact(chosen)
    assert expand(lines) == sorted(set(chosen))
    assert compact(expand(lines)) == lines
    shuffled = random.sample(chosen, len(chosen)) + chosen[:3]
    assert compact(shuffled) == lines and digest(shuffled) == digest(chosen)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *[
            (line, rf"is .*expected .*{DRIVE}")
            for line in ("0001 2 5", f"{DRIVE} 2", f"{DRIVE} 4 5", "2011_09_26_drive_000\u0661 2 5")
        ],
        *[
            (f"{DRIVE} 2 0 {word}", f"holds the range {re.escape(repr(word))}: expected a frame")
            for word in ("x", "9-5", "5-9/3", "5-9/0", "1234567", "\u096b")
        ],
        (f"{DRIVE} 2 0-9 7-11", f"names frame 7 of camera 2 of drive {DRIVE} again"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named(line, message):
    with pytest.raises(ValueError, match=rf"^Line 2 of here\.txt {message}"):
        expand(["# first", line], "here.txt")
    assert expand(["", "# first", f" {DRIVE}  3,2 9 5-6 \r\n"])[:3] == frames(5, 6, 9)


def test_what_could_not_be_read_again_is_not_written():
    for key, message in (
        (frames(10**6)[0], r"Frame 1000000 of drive .* expected a whole number from 0 to 999999"),
        (frames(0, camera=4)[0], r"'2011_09_26_drive_0001 4' cannot be written"),
    ):
        with pytest.raises(ValueError, match=message):
            compact([*frames(1), key])


# Fewer labels

# Drives with gaps, a camera that may lack frames or be absent, sequences shorter than any k.
folders = st.sets(keys, max_size=60).map(sorted)


@given(folders, st.integers(1, 9), st.integers(1, 4), st.integers(-20, 20))
@quickly
def test_keep_every_keeps_one_in_k_of_each_sequence(keys, k, factor, phase):
    kept = keep_every(keys, k, phase)
    assert kept.dtype == bool and kept.shape == (len(keys),)
    for key, label in zip(keys, kept, strict=True):
        position = sum(
            other[:3] == key[:3] and other.frame < key.frame for other in keys
        )  # among the frames that are there
        assert label == ((position - phase) % k == 0)
    assert (keep_every(keys, k * factor, phase) <= kept).all()  # nested
    assert (sum(keep_every(keys, k, phase).astype(int) for phase in range(k)) == 1).all()


@given(folders, st.integers(1, 8), st.randoms())
@quickly
def test_neither_order_nor_other_sequences_change_the_labels(keys, k, random):
    order = random.sample(range(len(keys)), len(keys))
    shuffled = [keys[index] for index in order]
    kept = keep_every(keys, k, 3)
    np.testing.assert_array_equal(keep_every(shuffled, k, 3), kept[order])
    for name in {key[:3] for key in keys}:
        mask = [key[:3] == name for key in keys]
        alone = keep_every(list(compress(keys, mask)), k, 3)
        np.testing.assert_array_equal(alone, kept[mask])


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="k is 0, expected a whole number from 1"):
        keep_every(frames(0, 1), 0)
    with pytest.raises(ValueError, match=r"Frame .*'0001', 2, 1\) is named twice"):
        keep_every(frames(0, 1, 1), 2)


# The script that makes the lists


@pytest.fixture
def run(kitti_sample, tmp_path, monkeypatch):
    """Run the script over the published lists."""
    specification = importlib.util.spec_from_file_location("make_splits", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def run_main(*arguments):
        words = [SCRIPT, kitti_sample / "splits", "--output", tmp_path / "made", *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        return module.main()

    return run_main


def test_the_script_makes_the_shipped_files(run, tmp_path, capsys):
    assert run() == 0
    assert "eigen_train: 45200 images\n" in capsys.readouterr().out
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert made == {path.name: path.read_bytes() for path in LISTS.iterdir()}
    changed = tmp_path / "made" / "eigen_val.txt"
    changed.write_text(changed.read_text().replace("# Count: 1,776", "# Count: 1,777"))
    assert run("--check") == 1
    assert re.search(r"eigen_val\.txt differs from the published", capsys.readouterr().err)
