"""Hostile bytes for every reader: only documented errors, and never other data than written.

A target fails if its reader does anything but return what it should or raise a documented error.
"""

import atexit
import hashlib
import json
import re
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.depth.protocols import read_depth_png
from prepare_kitti import verify
from small_kitti import CAM_TO_CAM, VELO_TO_CAM, write_textured
from ubnlib.kitti import Calibration, KittiRaw, PackedDepth, prepare
from ubnlib.kitti.calibration import parse_calibration
from ubnlib.kitti.projection import read_velodyne
from ubnlib.kitti.raw import read_image
from ubnlib.kitti.splits import compact, expand

FILES = ("manifest.json", "frames.csv", "images.npy", "depth.npy")


def one_sentence(error: Exception, name: object) -> None:
    text = str(error)
    assert "\n" not in text and str(name) in text and 30 < len(text) < 2000, text


def fuzz_calibration(data: bytes) -> None:
    """Two files with a NUL between them."""
    first, _, second = data.partition(b"\0")
    (FOLDER / "calib_cam_to_cam.txt").write_bytes(first)
    (FOLDER / "calib_velo_to_cam.txt").write_bytes(second)
    entries = parse_calibration(first.decode(errors="replace"))
    assert (
        parse_calibration("\n".join(f"{key}: {text}" for key, text in entries.items())) == entries
    )
    try:
        calibration = Calibration.load(FOLDER)
        projection, size = calibration.projection(2), calibration.image_size(2)
    except ValueError as error:
        one_sentence(error, FOLDER / "calib_")
    else:
        assert projection.shape == (3, 4) and projection.dtype == np.float64
        assert min(size) >= 1 and all(type(side) is int for side in size)


def fuzz_velodyne(data: bytes) -> None:
    path = FOLDER / "scan.bin"
    path.write_bytes(data)
    try:
        points = read_velodyne(path)
    except ValueError as error:
        one_sentence(error, path)
        assert not data or len(data) % 16
    else:
        assert data and points.tobytes() == data and points.shape == (len(data) // 16, 4)


def fuzz_framesets(data: bytes) -> None:
    text = data.decode(errors="replace")
    if re.search(r"-\d{5}", text):
        return  # valid, but a hundred thousand frames take too long here
    try:
        keys = expand(text.splitlines(), "the list")
    except ValueError as error:
        assert str(error).startswith("Line ") and "of the list" in str(error)
        one_sentence(error, "expected")
    else:
        assert keys == sorted(set(keys)) and expand(compact(keys)) == keys


def fuzz_image(data: bytes) -> None:
    path = FOLDER / "image.png"
    path.write_bytes(data)
    for read in (read_image, read_depth_png):
        try:
            pixels = read(path)
        except ValueError as error:
            one_sentence(error, path)
        else:
            assert_whole_png(data)
            assert pixels.shape[-2:] == struct.unpack(">II", data[16:24])[::-1]


def assert_whole_png(data: bytes) -> None:
    """Check the checksums of all chunks before the last, independently of Pillow."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place = 8
    while data[place + 4 : place + 8] != b"IEND":
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 4 : place + 8 + length]
        (checksum,) = struct.unpack(">I", data[place + 8 + length : place + 12 + length])
        assert zlib.crc32(body) == checksum, kind
        place += 12 + length


def fuzz_packed(data: bytes) -> None:
    """First byte: which file the rest replaces, and whether the manifest is made to fit."""
    which, rest = data[:1] or b"\0", data[1:]
    name, refit = FILES[which[0] % 4], which[0] & 4
    folder = FOLDER / "damaged"
    for other in FILES:
        content = rest if other == name else ORIGINAL[other]
        (folder / other).write_bytes(content)
    if refit and name == "frames.csv":
        table = rest.decode("ascii", "replace")
        table = table.replace("\r\n", "\n").replace("\r", "\n")
        manifest = json.loads(ORIGINAL["manifest.json"])
        manifest["fingerprint"] = hashlib.sha256(table.encode()).hexdigest()[:16]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    try:
        frames = PackedDepth(folder)
        batch = frames.batch(range(len(frames)))
        batch.depth()
        verify(frames, workers=1)
    except (ValueError, FileNotFoundError) as error:
        one_sentence(error, folder)
    else:  # the digests fit: these are the bytes that were written, whoever names them
        assert frames.size == WHOLE.size
        for index in range(len(frames)):
            for ours, whole in zip(frames.stored(index), WHOLE.stored(index), strict=True):
                assert ours.tobytes() == whole.tobytes()
        assert refit or frames.keys == WHOLE.keys


def _seed_image(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(FOLDER / "seed.png")
    return (FOLDER / "seed.png").read_bytes()


FOLDER = Path(tempfile.mkdtemp(prefix="fuzz_kitti_"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
(FOLDER / "damaged").mkdir()
WHOLE = prepare(
    KittiRaw(write_textured(FOLDER / "raw", frames=range(2)), size=(4, 6)),
    FOLDER / "whole",
    workers=1,
    progress=False,
)
ORIGINAL = {name: (WHOLE.folder / name).read_bytes() for name in FILES}
_RANDOM = np.random.default_rng(0)
_POINTS = _RANDOM.uniform((0, -9, -6, 0), (10, 9, 6, 1), (30, 4)).astype("<f4").tobytes()

READERS = (fuzz_calibration, fuzz_velodyne, fuzz_framesets, fuzz_image, fuzz_packed)
TARGETS = {target.__name__.removeprefix("fuzz_"): target for target in READERS}

SEEDS = {
    "calibration": [f"{CAM_TO_CAM}\0{VELO_TO_CAM}".encode()],
    "velodyne": [_POINTS],
    "framesets": [
        b"# drives\n2011_09_26_drive_0001 2,3 0-103 107\n\n2011_09_30_drive_0020 2 0-1088/64\n"
    ],
    "image": [
        _seed_image(_RANDOM.integers(0, 256, (5, 7, 3), np.uint8)),
        _seed_image(_RANDOM.integers(0, 256, (5, 7), np.uint8)),
        _seed_image(_RANDOM.integers(0, 2**16, (5, 7), np.uint16)),
    ],
    "packed": [
        bytes([kind]) + ORIGINAL[FILES[kind % 4]] for kind in (0, 1, 2, 3, 5)
    ],
}  # fmt: skip


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
