"""Few labels: which frames keep their depth map, against counting by hand."""

import math
from itertools import compress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ubnlib.kitti.raw import FrameKey
from ubnlib.kitti.splits import compact, keep_every, keep_random, load_split

DATE = "2000_01_01"
HALVINGS = [2**power for power in range(8)]

# Drives with gaps, a camera that may lack frames or be absent, sequences shorter than any k.
folders = st.sets(
    st.builds(
        FrameKey,
        st.sampled_from([DATE, "2000_01_02"]),  # drive numbers begin anew each date
        st.sampled_from(["0001", "0002"]),
        st.sampled_from([2, 3]),
        st.integers(0, 40),
    ),
    max_size=60,
).map(sorted)


def make_keys(lengths, cameras=(2, 3)):
    return [
        FrameKey(DATE, f"{drive:04d}", camera, frame)
        for drive, length in enumerate(lengths)
        for camera in cameras
        for frame in range(length)
    ]


def sequences(keys):
    """The frame numbers of each drive and camera."""
    return {
        name: [key.frame for key in keys if key[:3] == name] for name in {key[:3] for key in keys}
    }


def chosen(keys, kept):
    return list(compress(keys, kept))


@given(folders, st.integers(1, 9), st.integers(-20, 20))
@settings(deadline=None)
def test_keep_every_keeps_one_in_k_of_each_sequence(keys, k, phase):
    kept = keep_every(keys, k, phase)
    assert kept.dtype == bool and kept.shape == (len(keys),)
    for key, label in zip(keys, kept, strict=True):
        position = sum(
            other[:3] == key[:3] and other.frame < key.frame for other in keys
        )  # among the frames that are there
        assert label == ((position - phase) % k == 0)


@given(folders, st.integers(1, 6), st.integers(1, 6), st.integers(0, 50))
@settings(deadline=None)
def test_keep_every_is_nested_for_multiples_of_k_with_any_phase(keys, k, factor, phase):
    assert (keep_every(keys, k * factor, phase) <= keep_every(keys, k, phase)).all()


def test_keep_every_is_not_nested_for_numbers_that_share_no_factor():
    keys = make_keys([12], cameras=(2,))
    assert not (keep_every(keys, 3) <= keep_every(keys, 2)).all()


@given(folders, st.integers(1, 12))
@settings(deadline=None)
def test_the_phases_share_the_frames_out(keys, k):
    assert (sum(keep_every(keys, k, phase).astype(int) for phase in range(k)) == 1).all()


def test_a_sequence_shorter_than_k_keeps_its_first_frame_or_none():
    keys = make_keys([3, 20], cameras=(2,))
    assert [key[1::2] for key in chosen(keys, keep_every(keys, 8))] == [
        ("0000", 0), ("0001", 0), ("0001", 8), ("0001", 16),
    ]  # fmt: skip
    assert [key[1::2] for key in chosen(keys, keep_every(keys, 8, 5))] == [
        ("0001", 5), ("0001", 13),
    ]  # fmt: skip


@given(folders, st.integers(1, 12), st.integers(0, 2**63))
@settings(deadline=None)
def test_keep_random_keeps_one_in_k_of_each_sequence_rounded_up(keys, k, seed):
    kept = keep_random(keys, k, seed)
    assert kept.dtype == bool and kept.shape == (len(keys),)
    labeled = sequences(chosen(keys, kept))
    for name, frames in sequences(keys).items():
        assert len(labeled[name]) == math.ceil(len(frames) / k)


@given(folders, st.integers(1, 20), st.integers(0, 20), st.integers(0, 5))
@settings(deadline=None)
def test_keep_random_is_nested_for_all_k(keys, k, more, seed):
    assert (keep_random(keys, k + more, seed) <= keep_random(keys, k, seed)).all()


@given(folders, st.integers(1, 8), st.randoms())
@settings(deadline=None)
def test_the_order_of_the_keys_does_not_matter(keys, k, random):
    order = random.sample(range(len(keys)), len(keys))
    shuffled = [keys[index] for index in order]
    np.testing.assert_array_equal(keep_every(shuffled, k, 3), keep_every(keys, k, 3)[order])
    np.testing.assert_array_equal(keep_random(shuffled, k, 3), keep_random(keys, k, 3)[order])


@given(folders, st.integers(1, 8))
@settings(deadline=None)
def test_other_drives_and_the_other_camera_change_nothing(keys, k):
    for name in {key[:3] for key in keys}:
        mask = [key[:3] == name for key in keys]
        alone = chosen(keys, mask)
        np.testing.assert_array_equal(keep_every(alone, k, 1), keep_every(keys, k, 1)[mask])
        np.testing.assert_array_equal(keep_random(alone, k, 1), keep_random(keys, k, 1)[mask])


def test_keep_random_is_the_same_in_every_version():
    keys = make_keys([40], cameras=(2,))
    assert compact(chosen(keys, keep_random(keys, 4, 0))) == [
        "2000_01_01_drive_0000 2 6 8 11 15 20-21 25 28 33 36"
    ]


def test_keep_random_drops_a_scan_for_both_cameras_and_differently_in_each_drive():
    keys = make_keys([50, 50])
    labeled = sequences(chosen(keys, keep_random(keys, 4, 0)))
    assert labeled[DATE, "0000", 2] == labeled[DATE, "0000", 3]
    assert labeled[DATE, "0000", 2] != labeled[DATE, "0001", 2]


def test_a_missing_unlabeled_frame_does_not_change_the_random_labels():
    keys = make_keys([50], cameras=(2,))
    labeled = chosen(keys, keep_random(keys, 4, 0))
    gone = next(key for key in keys if key not in labeled)
    rest = [key for key in keys if key != gone]
    assert chosen(rest, keep_random(rest, 4, 0)) == labeled


def test_keep_random_favors_no_frame():
    keys = make_keys([16], cameras=(2,))
    seeds = 800
    kept = sum(keep_random(keys, 4, seed).astype(int) for seed in range(seeds))
    deviation = math.sqrt(seeds * 0.25 * 0.75)
    assert kept.sum() == 4 * seeds
    assert np.abs(kept - seeds / 4).max() < 4 * deviation
    assert kept.std() > 0.3 * deviation  # seeds do differ


@pytest.mark.parametrize("keep", [keep_every, lambda keys, k: keep_random(keys, k, 0)])
def test_bad_arguments_are_refused(keep):
    for k in (0, -2):
        with pytest.raises(ValueError, match=f"k is {k}, expected a whole number from 1"):
            keep(make_keys([3]), k)
    keys = make_keys([3])
    with pytest.raises(ValueError, match=r"Frame .*'0000', 2, 1\) is named twice"):
        keep([*keys, keys[1]], 2)


def test_labels_of_the_paper_s_fractions_on_its_stand_in_split():
    keys = load_split("paper_standin_train")
    lengths = [len(frames) for frames in sequences(keys).values()]
    assert len(lengths) == 60 and min(lengths) == 1
    every = {k: keep_every(keys, k) for k in HALVINGS}
    random = {k: keep_random(keys, k, 0) for k in HALVINGS}
    for k in HALVINGS:
        expected = sum(math.ceil(length / k) for length in lengths)
        assert every[k].sum() == random[k].sum() == expected
    assert every[1].all() and every[128].sum() == 360
    for larger, k in zip(HALVINGS[1:], HALVINGS[:-1], strict=True):
        assert (every[larger] <= every[k]).all() and (random[larger] <= random[k]).all()
        assert (every[larger] != every[k]).any() and (random[larger] != every[larger]).any()
