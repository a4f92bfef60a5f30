"""The packed set: depth codes, the contract it shares with `KittiRaw`, damaged folders."""

import hashlib
import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prepare_kitti import verify
from ubnlib.kitti import KittiRaw, PackedBatch, PackedDepth
from ubnlib.kitti.packed import (
    MAX_DEPTH,
    MAX_PIXELS,
    STEPS_PER_METER,
    check_size,
    decode_depth,
    encode_depth,
    frame_digest,
)
from ubnlib.kitti.raw import FrameKey

SIZE = (12, 36)
FRAMES = 12


@pytest.fixture(scope="module")
def raw(tiny_kitti):
    return KittiRaw(tiny_kitti, size=SIZE)


@pytest.fixture(scope="module")
def packed(tiny_packed):
    return PackedDepth(tiny_packed)


@pytest.fixture
def folder(tiny_packed, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(tiny_packed, tmp_path / "packed")


# Depth codes

HALF_A_STEP = 0.5 / STEPS_PER_METER
LAST_STEP = (2**14 - 1) / STEPS_PER_METER  # 79.995 m

# Few pixels, the most there may be, and rows on which the sign bit changes.
SHAPES = [(1, 1), (3, 5), (256, 832), (512, 512), (1, 2**18), (2**18, 1)]
EDGES = [0.0, -0.0, 1e-45, 1e-6, HALF_A_STEP, 79.99, 79.998, 80.0, 80.00001, 1e9, -1.0]
NOT_FINITE = [np.nan, np.inf, -np.inf]


def sparse_map(shape, seed, share=0.1, top=90.0):
    generator = np.random.default_rng(seed)
    depth = generator.uniform(0, top, shape) * (generator.uniform(size=shape) < share)
    return depth.astype(np.float32)


def expected_map(depth):
    """What a code can hold of a map, worked out in float64 pixel by pixel."""
    kept = np.isfinite(depth) & (depth > 0) & (depth <= MAX_DEPTH)
    steps = np.round(np.where(kept, depth, 0).astype(np.float64) * 204.8)
    return np.where(kept, np.clip(steps, 1, 2**14 - 1), 0) / 204.8


def unpacked(maps):
    """There and back, as a batch holds the codes."""
    codes = [encode_depth(depth) for depth in maps]
    joined = np.concatenate([np.empty(0, np.uint32), *codes]).view(np.int32)
    counts = torch.tensor([len(each) for each in codes], dtype=torch.int64)
    return decode_depth(torch.from_numpy(joined), counts, maps[0].shape).numpy()


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(SHAPES),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.001, 0.1]),
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(EDGES + NOT_FINITE) | st.floats(width=32)),
        max_size=20,
    ),
)
def test_any_map_comes_back_to_half_a_step(shape, seed, share, special):
    depth = sparse_map(shape, seed, share)
    for place, value in special:  # the first and the last pixel among them
        depth.flat[round(place * (depth.size - 1))] = value
    back = unpacked([depth])[0]
    np.testing.assert_array_equal(back, expected_map(depth).astype(np.float32))
    inside = (depth > HALF_A_STEP) & (depth <= LAST_STEP)
    # Half a step of rounding, and that of float32 at 80 m.
    np.testing.assert_allclose(back[inside], depth[inside], rtol=0, atol=1 / 409.6 + 4e-6)
    returns = np.isfinite(depth) & (depth > 0) & (depth <= 80)
    np.testing.assert_array_equal(back > 0, returns)  # none is lost, and none made up
    assert back.dtype == np.float32 and back.shape == shape


def test_codes_are_uint32_and_ascend():
    depth = sparse_map((512, 512), seed=1)
    depth[-1, -1] = 5.0
    codes = encode_depth(depth)
    assert codes.dtype == np.uint32 and codes.ndim == 1
    assert (np.diff(codes.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(codes >> 14, np.flatnonzero((depth > 0) & (depth <= 80)))
    assert codes[-1] == (2**18 - 1) << 14 | 1024 and codes.view(np.int32)[-1] < 0  # the sign bit


@pytest.mark.parametrize("size", [(513, 512), (1, 2**18 + 1), (0, 5), (3,)])
def test_sizes_that_do_not_fit_are_refused(size):
    for accepted in ((512, 512), (1, MAX_PIXELS)):
        check_size(accepted)
    with pytest.raises(ValueError, match=f"size is .* with at most {MAX_PIXELS} pixels"):
        encode_depth(np.zeros(size, np.float32))


# The contract


def assert_same_batch(ours, other):
    assert isinstance(ours, PackedBatch) and isinstance(other, PackedBatch)
    for one, two in zip(ours, other, strict=True):
        assert one.dtype == two.dtype and torch.equal(one, two)


def test_items_are_those_of_the_raw_files(packed, raw):
    assert packed.keys == raw.keys and len(packed) == len(raw) == FRAMES
    assert packed.size == SIZE
    for index, key in enumerate(raw.keys):
        item, expected = packed[index], raw[index]
        assert set(item) == set(expected) and item["key"] == key
        assert packed.index(key) == index
        for name in ("image", "depth"):
            assert item[name].dtype == expected[name].dtype
            assert item[name].shape == expected[name].shape
        assert torch.equal(item["image"], expected["image"])
        inside = expected["depth"].numpy() * (expected["depth"].numpy() <= 80)
        np.testing.assert_allclose(item["depth"], inside, rtol=0, atol=1 / 409.6 + 4e-6)
        np.testing.assert_array_equal(item["depth"] > 0, inside > 0)
    with pytest.raises(KeyError):
        packed.index(FrameKey("2011_09_26", "0001", 2, 99))
    with pytest.raises(IndexError):  # which ends a loop over all items
        packed[FRAMES]
    assert packed.image(0).stride() == (1, 3 * SIZE[1], 3)  # channels last
    assert packed.batch([0, 1]).images.is_contiguous(memory_format=torch.channels_last)


def test_items_may_be_written_to_and_the_files_may_not(packed):
    before, item = packed[0], packed[0]
    item["image"].zero_()
    item["depth"].zero_()
    batch = packed.batch([0])
    batch.images.zero_()
    batch.codes.zero_()
    assert torch.equal(packed.image(0), before["image"]) and before["image"].any()
    assert torch.equal(packed.depth(0), before["depth"]) and before["depth"].any()
    image, codes = packed.stored(0)
    for array in (image, codes):
        assert not array.flags.writeable and not array.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-FRAMES, FRAMES - 1), max_size=12), st.booleans(), st.booleans())
def test_a_batch_is_its_items(packed, indices, depth, as_tensor):
    given = torch.tensor(indices, dtype=torch.int64) if as_tensor else indices
    batch = packed.batch(given, depth=depth)
    assert batch.images.shape == (len(indices), 3, *SIZE) and batch.images.dtype == torch.uint8
    assert (batch.codes.dtype, batch.counts.dtype) == (torch.int32, torch.int64)
    assert batch.counts.shape == (len(indices),) and batch.counts.sum() == len(batch.codes)
    maps = batch.depth()
    assert maps.shape == (len(indices), *SIZE)
    for index, image, map_ in zip(indices, batch.images, maps, strict=True):
        assert torch.equal(image, packed.image(index))
        assert torch.equal(map_, packed.depth(index) if depth else torch.zeros(SIZE))
    assert depth or not len(batch.codes)


@pytest.mark.parametrize(
    "indices", [[FRAMES], [-FRAMES - 1], np.ones(FRAMES, bool), [0.5], 3, [None]]
)
def test_a_batch_of_other_than_positions_is_refused(packed, indices):
    with pytest.raises(
        (IndexError, ValueError), match=r"expected (positions below 12|a row of pos)"
    ):
        packed.batch(indices)


def test_a_pickle_holds_no_data(packed, folder):
    stored = pickle.dumps(packed)
    assert len(stored) < 200 * FRAMES < packed._images.nbytes
    copy = pickle.loads(stored)
    assert_same_batch(copy.batch(range(FRAMES)), packed.batch(range(FRAMES)))
    assert len(packed.stored(0)[0])  # pickling has not closed the original
    gone = pickle.dumps(PackedDepth(folder))
    (folder / "images.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"images.npy is missing: remove the folder"):
        pickle.loads(gone)


# Damaged folders


def recomputed(folder):
    """Make the manifest fit the table again, as someone who edits both would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    table = (folder / "frames.csv").read_bytes().decode("ascii", "replace")
    manifest["fingerprint"] = hashlib.sha256(table.encode()).hexdigest()[:16]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder, message, kind=ValueError):
    with pytest.raises(kind, match=message) as caught:
        PackedDepth(folder)
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text and "prepare it" in text
    return text


@pytest.mark.parametrize("name", ["manifest.json", "frames.csv", "images.npy", "depth.npy"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    refused(folder, f"{name} is missing: ", FileNotFoundError)
    (folder / name).mkdir()
    refused(folder, f"{name} is missing: ", FileNotFoundError)


ARRAYS = [
    ("images.npy", np.zeros((FRAMES, *SIZE, 3), np.int8)),
    ("images.npy", np.zeros((FRAMES, *SIZE[::-1], 3), np.uint8)),
    ("images.npy", np.zeros((FRAMES, *SIZE, 3), np.uint8, order="F")),
    ("depth.npy", None),  # the right length, of another type
]


@pytest.mark.parametrize(("name", "array"), ARRAYS)
def test_arrays_that_are_cut_or_of_another_kind_are_refused(folder, packed, name, array):
    whole = (folder / name).read_bytes()
    for length in (0, 9, 100, 128, len(whole) - 1):
        (folder / name).write_bytes(whole[:length])
        refused(folder, f"{name} cannot be mapped .*: expected .* as manifest.json says")
    np.save(folder / name, np.zeros(packed.manifest.points, ">u4") if array is None else array)
    refused(folder, f"{name} holds something else: expected uint")


class Payload:
    """Something that shows when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("name", ["images.npy", "depth.npy"])
def test_nothing_is_ever_unpickled(folder, name):
    array = np.full(FRAMES, Payload(), object)
    np.save(folder / name, array, allow_pickle=True)
    refused(folder, f"{name} (cannot be mapped|holds something else)")
    (folder / name).write_bytes(pickle.dumps(array))
    refused(folder, f"{name} (cannot be mapped|holds something else)")


def swap(text, first, second):
    lines = text.splitlines(keepends=True)
    lines[first], lines[second] = lines[second], lines[first]
    return "".join(lines)


TABLES = [
    (lambda text: "", "is no table of 12 frames with the columns drive,camera"),
    (lambda text: text.replace("_0001,2,0,", "_0001,2,\u0663,", 1), "is no table"),
    (lambda text: text.replace("2000_01_01_", "../../etc", 1), "is no table"),
    (lambda text: text[: text.rindex("2000")], "is no table"),
    (lambda text: swap(text, 1, 2), "names a frame or a row twice, out of order, or beyond"),
    (lambda text: re.sub(r"(?m)^(.*_0001,2,2),2,", r"\1,12,", text), "beyond the manifest's"),
    (lambda text: re.sub(r"(_0001,2,0,0),\d+,", r"\1,1,", text), "counts .* points and manifest"),
]


@pytest.mark.parametrize(("edit", "message"), TABLES)
def test_a_table_that_cannot_be_is_refused_even_with_its_fingerprint(folder, edit, message):
    path = folder / "frames.csv"
    before = path.read_text()
    path.write_text(edit(before))
    assert path.read_text() != before
    refused(folder, r"frames.csv is not the table that manifest.json was written for")
    recomputed(folder)
    refused(folder, f"frames.csv .*{message}")


MANIFESTS = [
    dict(frames=9), dict(rows=13), dict(points=-1), dict(size=[36, 12]), dict(size=[513, 512]),
    dict(fingerprint="0" * 16), dict(format="ubnlib-packed-depth-2"), dict(surprise=1),
    dict(versions=None), b"", b"[]", b"\xff\xfe", b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("change", MANIFESTS, ids=lambda change: str(change)[:30])
def test_a_manifest_that_does_not_fit_is_refused(folder, change):
    path = folder / "manifest.json"
    if isinstance(change, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        refused(folder, r"manifest.json|frames.csv|images.npy|depth.npy")
    else:
        path.write_bytes(change)
        refused(folder, "manifest.json is no manifest of a packed set")


@pytest.mark.parametrize("name", ["images.npy", "depth.npy"])
@pytest.mark.parametrize("place", [128, -1])  # behind the header, and the last byte
def test_verify_finds_a_flipped_bit(folder, packed, name, place):
    verify(packed)
    data = bytearray((folder / name).read_bytes())
    data[place] ^= 1
    (folder / name).write_bytes(data)
    frame = tuple(packed.keys[0 if place > 0 else -1])
    with pytest.raises(ValueError, match=re.escape(f"Frame {frame} in")):
        verify(PackedDepth(folder))


def test_digests_are_blake2b_of_image_and_codes(packed):
    lines = (packed.folder / "frames.csv").read_text().splitlines()[1:]
    for index, line in enumerate(lines):
        image, codes = packed.stored(index)
        expected = hashlib.blake2b(image.tobytes() + codes.tobytes(), digest_size=8).hexdigest()
        assert frame_digest(image, codes) == expected == line.rsplit(",")[-1]
    table = (packed.folder / "frames.csv").read_bytes()
    assert packed.fingerprint == hashlib.sha256(table).hexdigest()[:16]


def test_a_damaged_point_never_lands_in_another_map(folder):
    """Its pixel number may be beyond the map; on a GPU, that would stop the whole process."""
    path = folder / "depth.npy"
    data = bytearray(path.read_bytes())
    data[128 + 3] |= 1  # of the first frame's first code: pixel 1024 or more of 432
    path.write_bytes(data)
    frames = PackedDepth(folder)
    for read in (lambda: frames.depth(0), lambda: frames.batch([3, 0, 1]), lambda: frames[0]):
        with pytest.raises(ValueError, match=r"depth.npy holds a point outside of its map: remove"):
            read()
    assert frames.depth(1).any() and len(frames.batch([0, 1], depth=False).codes) == 0
