"""Hostile bytes for every reader: only documented errors, and never other data than written.

The targets are those of `tests/slow/fuzz/fuzz_kitti.py`, which runs them for longer; here
hypothesis gives each a few hundred inputs: arbitrary bytes, and real files with pieces changed.
"""

import pytest
from fuzz_kitti import ORIGINAL, SEEDS, TARGETS, assert_whole_png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# What often matters to a parser, among them numbers at the ends of their ranges.
TOKENS = [
    b"", b"\0", b"\xff", b"\n", b" ", b",", b":", b"nan", b"inf", b"-1", b"0", b"1e999", b"1e308",
    b"9" * 30, b"[" * 50, b"null", b"True", b"\xe2\x80\xa8", b"PK\x03\x04", b"\x93NUMPY", b"IEND",
    b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\0\0\xc0\x7f",
]  # fmt: skip
pieces = st.sampled_from(TOKENS) | st.binary(max_size=6)
edits = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0, 0, 1, 4, 30, 10**6]), pieces),
    min_size=1,
    max_size=4,
)


def edited(data, edits):
    """Replace pieces of some length, at some share of the way, by others; 10**6 cuts the end."""
    for share, length, piece in edits:
        place = round(share * len(data))
        data = data[:place] + piece + data[place + length :]
    return data


run_longer = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_taken(name):
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
@run_longer
@given(st.binary(max_size=400))
def test_arbitrary_bytes(name, data):
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@run_longer
@given(st.data())
def test_real_files_with_pieces_changed(name, data):
    seed = data.draw(st.sampled_from(SEEDS[name]))
    TARGETS[name](edited(seed, data.draw(edits)))


@run_longer
@given(
    st.sampled_from([0, 1, 2, 3, 5]),
    st.integers(0, 10**6),
    st.integers(1, 255),
)
def test_packed_files_with_one_byte_changed(kind, place, bits):
    data = bytearray(SEEDS["packed"][[0, 1, 2, 3, 5].index(kind)])
    data[1 + place % (len(data) - 1)] ^= bits
    TARGETS["packed"](bytes(data))


@run_longer
@given(st.text(max_size=200))
def test_frame_sets_of_arbitrary_text(text):
    TARGETS["framesets"](text.encode(errors="replace"))


numbers = st.sampled_from(
    ["0", "-0", "1", "-1", "1e300", "-1e300", "1e-320", "nan", "inf", "1_0", "0x1", "1e999", ""]
) | st.floats().map(str)


@run_longer
@given(st.lists(numbers, min_size=45, max_size=45), st.sampled_from([0, 0, 0, 1, -1]))
def test_calibrations_of_hostile_numbers(words, missing):
    values = iter(words)

    def line(key, count):
        return f"{key}: {' '.join(next(values) for _ in range(count))}"

    camera = [line("S_rect_02", 2), line("R_rect_00", 9), line("P_rect_02", 12 + missing)]
    velodyne = [line("R", 9), line("T", 3)]
    TARGETS["calibration"]("\n".join([*camera, "\0", *velodyne]).encode())


@pytest.mark.parametrize("seed", SEEDS["image"], ids=["color", "gray", "depth"])
def test_pngs_without_pixels(seed):
    """Found by atheris: Pillow looks for the first pixels of an image that has none."""
    TARGETS["image"](seed.replace(b"IDAT", b"IEND"))
    TARGETS["image"](seed[:33] + seed[-12:])  # header and end, both whole


def test_the_targets_can_fail(monkeypatch):
    """With a reader that lets damage through, or that fails with an error of its own."""
    module = TARGETS["packed"].__globals__
    images = bytearray(SEEDS["packed"][2])
    images[-1] ^= 1
    monkeypatch.setattr("fuzz_kitti.verify", lambda *arguments, **options: None)
    with pytest.raises(AssertionError):
        TARGETS["packed"](bytes(images))
    monkeypatch.setitem(module, "read_velodyne", lambda path: {}["bug"])
    with pytest.raises(KeyError):
        TARGETS["velodyne"](bytes(16))
    broken = bytearray(SEEDS["image"][0])
    broken[50] ^= 1
    with pytest.raises(AssertionError):
        assert_whole_png(bytes(broken))
    assert set(ORIGINAL) == {"manifest.json", "frames.csv", "images.npy", "depth.npy"}
