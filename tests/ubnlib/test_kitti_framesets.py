"""Sets of frames as text: there and back, canonical, and every malformed line refused."""

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ubnlib.kitti.raw import FrameKey
from ubnlib.kitti.splits import LAST_FRAME, compact, digest, expand

DRIVE = "2011_09_26_drive_0001"

# Few drives, cameras and numbers, so that cameras often share frames and runs are frequent.
keys = st.builds(
    FrameKey,
    st.sampled_from(["2011_09_26", "2000_01_01"]),
    st.sampled_from(["0001", "0002"]),
    st.integers(0, 3),
    st.integers(0, 30) | st.integers(LAST_FRAME - 5, LAST_FRAME),
)


def frames(*numbers, camera=2, date="2011_09_26", drive="0001"):
    return [FrameKey(date, drive, camera, number) for number in numbers]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([5], "5"),
        ([5, 6], "5-6"),
        ([0, 2], "0 2"),
        ([5, 6, 7], "5-7"),
        ([*range(104), 107], "0-103 107"),
        (range(0, 1104, 16), "0-1088/16"),
        ([0, 5, 6, 7], "0 5-7"),
        ([1, 3, 5, 6, 7, 8], "1-5/2 6-8"),
        ([0, 128, 256, 257], "0-256/128 257"),
        ([9, 8, 8, 1, 999_999], "1 8-9 999999"),
    ],
)
def test_ranges_are_written_as_a_person_would(numbers, text):
    assert compact(frames(*numbers)) == [f"{DRIVE} 2 {text}"]
    assert expand([f"{DRIVE} 2 {text}"]) == frames(*sorted(set(numbers)))


def test_cameras_with_the_same_frames_share_a_line():
    left, right = frames(1, 2, 3), frames(1, 2, 3, camera=3)
    assert compact(right + left) == [f"{DRIVE} 2,3 1-3"]
    assert compact(right[1:] + left) == [f"{DRIVE} 2 1-3", f"{DRIVE} 3 2-3"]
    gray = frames(2, 3, camera=0)
    assert compact(left + right[1:] + gray) == [f"{DRIVE} 0,3 2-3", f"{DRIVE} 2 1-3"]


def test_lines_are_sorted_by_drive():
    other = frames(7, date="2000_01_01", drive="0009")
    assert compact(frames(1) + other) == ["2000_01_01_drive_0009 2 7", f"{DRIVE} 2 1"]
    assert compact([]) == [] and expand([]) == []


@given(st.sets(keys))
@settings(deadline=None, max_examples=300)
def test_reading_inverts_writing(chosen):
    lines = compact(chosen)
    assert expand(lines) == sorted(chosen)
    assert compact(expand(lines)) == lines


@given(st.lists(keys, max_size=40), st.randoms())
@settings(deadline=None)
def test_order_and_repetitions_change_nothing(chosen, random):
    shuffled = random.sample(chosen, len(chosen)) + chosen[:3]
    assert compact(shuffled) == compact(chosen) and digest(shuffled) == digest(chosen)


def test_comments_blank_lines_and_any_order_are_read():
    text = f"# what it is\n\n{DRIVE} 3,2 9 5-6 \r\n  # more\n{DRIVE}  2 0-4/2\n"
    expected = frames(0, 2, 4, 5, 6, 9) + frames(5, 6, 9, camera=3)
    assert expand(text.splitlines(keepends=True)) == expected


def test_digest_is_that_of_the_lines_in_a_file():
    lines = b"2000_01_01_drive_0009 2 7\n2011_09_26_drive_0001 2 1-3\n"
    expected = hashlib.sha256(lines).hexdigest()[:16]
    assert digest(frames(1, 2, 3) + frames(7, date="2000_01_01", drive="0009")) == expected
    assert digest(frames(1, 2, 4)) != digest(frames(1, 2, 3)) != digest(frames(1, 2, 3, camera=3))


@pytest.mark.parametrize(
    "line",
    [
        "0001 2 5",
        "2011_09_26_drive_1 2 5",
        "2011_09_26_drive_0001_sync 2 5",
        "2011-09-26_drive_0001 2 5",
        DRIVE,
        f"{DRIVE} 2",
        f"{DRIVE} l 5",
        f"{DRIVE} 4 5",
        f"{DRIVE} 2,,3 5",
        f"{DRIVE} 2, 3 5",
        f"{DRIVE} 5-9",
        "2011_09_26_drive_000\u0661 2 5",
    ],
)
def test_a_malformed_line_is_named(line):
    with pytest.raises(ValueError, match=rf"^Line 2 of here\.txt is .*expected .*{DRIVE}"):
        expand(["# first", line], "here.txt")


@pytest.mark.parametrize(
    "word",
    ["x", "-5", "5-", "9-5", "5-5", "5-9/3", "5-9/0", "5/2", "1-9/", "5,6", "1.5", "5#", "1234567",
     "0-9999999", "5--9", "\u096b"],
)  # fmt: skip
def test_a_malformed_range_is_named(word):
    message = rf"^Line 1 of here\.txt holds the range {re.escape(repr(word))}: expected a frame"
    with pytest.raises(ValueError, match=message):
        expand([f"{DRIVE} 2 0 {word}"], "here.txt")


@pytest.mark.parametrize(
    "lines",
    [
        [f"{DRIVE} 2 7 7"],
        [f"{DRIVE} 2 0-9 7-11"],
        [f"{DRIVE} 2,2 7"],
        [f"{DRIVE} 2,3 7", f"{DRIVE} 0,2 5-9"],
    ],
)
def test_a_frame_named_twice_is_refused(lines):
    message = rf"^Line {len(lines)} of .* names frame 7 of camera 2 of drive {DRIVE} again"
    with pytest.raises(ValueError, match=message):
        expand(lines)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (frames(-1)[0], r"Frame -1 of drive .* expected a whole number from 0 to 999999"),
        (frames(10**6)[0], r"Frame 1000000 of drive"),
        (frames(0, camera=4)[0], r"'2011_09_26_drive_0001 4' cannot be written"),
        (frames(0, camera=23)[0], r"'2011_09_26_drive_0001 23' cannot be written"),
        (frames(0, drive="1")[0], r"'2011_09_26_drive_1 2' cannot be written"),
        (frames(0, date="today")[0], r"'today_drive_0001 2' cannot be written"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(key, message):
    with pytest.raises(ValueError, match=message):
        compact([*frames(1), key])


@given(
    st.sets(keys, min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("0123456789-/,_ dr#x\t")), max_size=3),
    st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_damaged_lines_are_refused_or_still_say_something_definite(chosen, edits, insert):
    lines = compact(chosen)
    for position, character in edits:
        line = lines[-1]
        position = min(position, len(line) - 1)
        lines[-1] = line[:position] + character + line[position + (not insert) :]
    try:
        read = expand(lines, "damaged.txt")
    except ValueError as error:
        assert re.match(r"Line \d+ of damaged\.txt", str(error)) and "\n" not in str(error)
    else:
        assert read == sorted(set(read)) == expand(compact(read))


@given(st.lists(st.text(max_size=60)))
@settings(deadline=None)
def test_any_text_is_refused_in_one_sentence_or_holds_nothing(lines):
    try:
        assert expand(lines) == []
    except ValueError as error:
        assert re.match(r"Line \d+ of frame set", str(error))
