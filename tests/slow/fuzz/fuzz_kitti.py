"""Fuzz targets for everything that reads files: calibration, scans, images, sets, packed folders.

A target takes arbitrary bytes, gives them to a reader, and fails if the reader does anything but
return what it should or raise one of its documented errors, in one sentence that names the file.
`tests/slow/test_kitti_fuzz.py` runs the targets for a moment with every test run. For longer runs
that look for new paths through the code, install atheris (Linux, `pip install atheris`; no
dependency of the project) and name a target and, if wanted, options of libFuzzer:

    python tests/slow/fuzz/fuzz_kitti.py calibration -max_total_time=300
    python tests/slow/fuzz/fuzz_kitti.py packed -max_total_time=300 corpus_folder

It starts from `SEEDS`. An input that fails is left in the file `crash-...`, and
`python tests/slow/fuzz/fuzz_kitti.py TARGET crash-...` runs it again.
"""

import atexit
import hashlib
import json
import re
import shutil
import struct
import sys
import tempfile
import warnings
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(TESTS / name) for name in ("helpers", "ubnlib", "../data_scripts")]
if __name__ == "__main__":
    import atheris

    instrumented = atheris.instrument_imports(["ubnlib", "PIL"])
else:
    instrumented = nullcontext()

with instrumented:
    from PIL import Image
    from test_projection import PROJECTION, brute_force

    from prepare_kitti import verify
    from small_kitti import CAM_TO_CAM, VELO_TO_CAM, write_textured
    from ubnlib.kitti import Calibration, KittiRaw, PackedDepth, prepare, project_velodyne
    from ubnlib.kitti.calibration import parse_calibration
    from ubnlib.kitti.projection import read_velodyne
    from ubnlib.kitti.raw import read_depth_png, read_image
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


def fuzz_projection(data: bytes) -> None:
    """Shape, a byte that does not matter, float64 numbers of a projection, and float32 points."""
    data += SEEDS["projection"][0][len(data) :]  # a short input changes the beginning of this one
    shape = (data[0] % 24 + 1, data[1] % 24 + 1)
    projection = np.frombuffer(data[3:99]).reshape(3, 4)
    points = np.frombuffer(data[99 : 99 + (len(data) - 99) // 16 * 16], "<f4").reshape(-1, 4)[:64]
    ours = project_velodyne(points, projection, shape)
    assert ours.dtype == np.float32 and ours.shape == shape
    np.testing.assert_array_equal(ours, brute_force(points, projection, shape))
    assert np.isfinite(ours).all() and (ours >= 0).all()


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

TARGETS = {
    "calibration": fuzz_calibration,
    "velodyne": fuzz_velodyne,
    "projection": fuzz_projection,
    "framesets": fuzz_framesets,
    "image": fuzz_image,
    "packed": fuzz_packed,
}

SEEDS = {
    "calibration": [f"{CAM_TO_CAM}\0{VELO_TO_CAM}".encode()],
    "velodyne": [_POINTS],
    "projection": [bytes([10, 16, eigen]) + PROJECTION.tobytes() + _POINTS for eigen in (0, 1)],
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


def main() -> None:
    """Run a target with atheris until it fails or its time is up."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz_kitti.py {{{','.join(TARGETS)}}} [options of libFuzzer]")
    name = sys.argv.pop(1)
    warnings.simplefilter("ignore")  # hostile numbers overflow
    seeds = FOLDER / "seeds"
    seeds.mkdir()
    for number, seed in enumerate(SEEDS[name]):
        TARGETS[name](seed)
        (seeds / str(number)).write_bytes(seed)
    replayed = any(Path(argument).is_file() for argument in sys.argv[1:])
    atheris.Setup([*sys.argv, *([] if replayed else [str(seeds)])], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
