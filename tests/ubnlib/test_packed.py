"""The packed set: the contract it shares with `KittiRaw`, workers, and damaged folders."""

import hashlib
import io
import json
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from prepare_kitti import verify
from small_kitti import write_textured
from ubnlib.kitti import KittiRaw, PackedBatch, PackedDepth, prepare
from ubnlib.kitti.packed import frame_digest
from ubnlib.kitti.raw import FrameKey

SIZE = (12, 36)
FRAMES = 10


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return KittiRaw(write_textured(tmp_path_factory.mktemp("raw")), size=SIZE)


@pytest.fixture(scope="module")
def packed(raw, tmp_path_factory):
    """A packed set that no test may change."""
    folder = tmp_path_factory.mktemp("sets") / "packed"
    return prepare(raw, folder, workers=1, progress=False)


@pytest.fixture
def folder(packed, tmp_path):
    """A copy to be damaged."""
    copy = tmp_path / "packed"
    copy.mkdir()
    for path in packed.folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def assert_same_batch(ours, other):
    assert isinstance(ours, PackedBatch) and isinstance(other, PackedBatch)
    for one, two in zip(ours, other, strict=True):
        assert one.dtype == two.dtype and torch.equal(one, two)


# The contract


def test_items_are_those_of_the_raw_files(packed, raw):
    assert packed.keys == raw.keys and len(packed) == len(raw) == FRAMES
    assert packed.size == SIZE
    for index, key in enumerate(raw.keys):
        item, expected = packed[index], raw[index]
        assert set(item) == set(expected) and item["key"] == key == packed.keys[index]
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


def test_images_lie_in_channels_last_order(packed):
    assert packed.image(0).stride() == (1, 3 * SIZE[1], 3)
    assert packed.batch([0, 1]).images.is_contiguous(memory_format=torch.channels_last)


def test_items_may_be_written_to_and_the_files_may_not(packed):
    before = packed[0]
    item = packed[0]
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


def test_one_passes_over_all_items_as_a_sequence(packed):
    assert [item["key"] for item in packed] == packed.keys
    assert packed[-1]["key"] == packed.keys[-1] and torch.equal(packed.image(-2), packed.image(8))
    assert torch.equal(packed.depth(-3), packed.depth(7))
    for index in (FRAMES, -FRAMES - 1):
        with pytest.raises(IndexError):
            packed[index]


@settings(deadline=None, max_examples=60)
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


def test_a_batch_in_a_buffer_of_the_caller(packed):
    out = np.full((3, *SIZE, 3), 7, np.uint8)
    batch = packed.batch([4, 0, 4], out=out)
    assert_same_batch(batch, packed.batch([4, 0, 4]))
    assert batch.images.data_ptr() == out.ctypes.data
    again = packed.batch([1, 2, 3], out=out)
    assert torch.equal(batch.images, again.images)  # the batch shares the buffer
    for wrong in (out[:2], out.astype(np.int16), out.reshape(3, -1)):
        with pytest.raises(ValueError, match=r"out is .*, expected uint8 \(3, 12, 36, 3\)"):
            packed.batch([1, 2, 3], out=wrong)


@pytest.mark.parametrize("indices", [[FRAMES], [0, -FRAMES - 1], [2**40], [-(2**63)]])
def test_a_batch_of_frames_that_are_not_there_is_refused(packed, indices):
    with pytest.raises(IndexError, match=r"expected positions below 10, the number of frames"):
        packed.batch(indices)


@pytest.mark.parametrize(
    "indices", [np.ones(FRAMES, bool), [True, False], [0.5], [[0, 1]], 3, ["0"], [None]]
)
def test_a_mask_is_no_row_of_positions(packed, indices):
    with pytest.raises(ValueError, match=r"expected a row of positions; np.flatnonzero"):
        packed.batch(indices)


def test_moving_a_batch(packed):
    batch = packed.batch([0, 3])
    assert_same_batch(batch.to("cpu"), batch)
    moved = batch.to("meta")
    assert all(tensor.is_meta for tensor in moved) and moved.images.shape == batch.images.shape


# Processes


def test_a_pickle_holds_no_data(packed):
    stored = pickle.dumps(packed)
    assert len(stored) < 200 * FRAMES < packed._images.nbytes
    copy = pickle.loads(stored)
    assert_same_batch(copy.batch(range(FRAMES)), packed.batch(range(FRAMES)))
    assert copy.stored(0)[0].base is not None and copy.keys == packed.keys
    assert len(packed.stored(0)[0])  # pickling has not closed the original


def test_a_pickle_of_a_folder_that_has_gone_names_it(folder):
    stored = pickle.dumps(PackedDepth(folder))
    (folder / "images.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"images.npy is missing: remove the folder"):
        pickle.loads(stored)


@pytest.mark.parametrize(
    ("context", "workers"),
    [("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.slow)],  # spawned ones are slow
)
def test_workers_read_the_same(packed, context, workers):
    order = [3, 1, 4, 1, 5, 9, 2, 6]
    options = dict(batch_size=None, sampler=order)
    loader = DataLoader(packed, num_workers=workers, multiprocessing_context=context, **options)
    items = list(loader)
    assert len(items) == len(order)
    for index, item in zip(order, items, strict=True):
        assert item["key"] == packed.keys[index] and item["depth"].any()
        assert torch.equal(item["image"], packed.image(index))
        assert torch.equal(item["depth"], packed.depth(index))


def test_opened_twice(packed, folder):
    one, two = PackedDepth(folder), PackedDepth(str(folder))
    assert_same_batch(one.batch([1, 2]), two.batch([1, 2]))
    del one
    assert_same_batch(two.batch([1, 2]), packed.batch([1, 2]))


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
@pytest.mark.parametrize("instead", ["nothing", "a folder"])
def test_a_missing_file_is_named(folder, name, instead):
    (folder / name).unlink()
    if instead == "a folder":
        (folder / name).mkdir()
    refused(folder, f"{name} is missing: ", FileNotFoundError)


def test_other_folders(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        refused(path, "manifest.json is missing: expected a folder written by", FileNotFoundError)


@pytest.mark.parametrize("name", ["images.npy", "depth.npy"])
def test_truncated_data_are_refused(folder, name):
    whole = (folder / name).read_bytes()
    for length in (0, 5, 9, 100, 128, len(whole) // 2, len(whole) - 1):
        (folder / name).write_bytes(whole[:length])
        refused(folder, f"{name} cannot be mapped .*: expected .* as manifest.json says")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("images.npy", np.zeros((FRAMES, *SIZE, 3), np.int8)),
        ("images.npy", np.zeros((FRAMES, *SIZE, 3), np.float32)),
        ("images.npy", np.zeros((FRAMES + 1, *SIZE, 3), np.uint8)),
        ("images.npy", np.zeros((FRAMES, *SIZE[::-1], 3), np.uint8)),
        ("images.npy", np.zeros((FRAMES, *SIZE, 3), np.uint8, order="F")),
        ("depth.npy", np.zeros(3, np.uint32)),
        ("depth.npy", None),  # the right length, of another type
    ],
)
def test_arrays_of_another_type_shape_or_order_are_refused(folder, packed, name, array):
    if array is None:
        array = np.zeros(packed.manifest.points, ">u4")
    np.save(folder / name, array)
    refused(folder, f"{name} holds something else: expected uint")


class Payload:
    """Something that shows when it is unpickled."""

    loaded = False

    def __setstate__(self, state):
        Payload.loaded = True


@pytest.mark.parametrize("name", ["images.npy", "depth.npy"])
@pytest.mark.parametrize("form", ["array of objects", "pickle", "archive", "broken archive"])
def test_nothing_is_ever_unpickled(folder, name, form):
    payload = Payload()
    payload.value = 1
    array = np.full(FRAMES, payload, object)
    if form == "array of objects":
        np.save(folder / name, array, allow_pickle=True)
    elif form == "pickle":
        (folder / name).write_bytes(pickle.dumps(array))
    else:
        content = io.BytesIO()
        np.savez(content, a=array)
        cut = None if form == "archive" else 50
        (folder / name).write_bytes(content.getvalue()[:cut])
    refused(folder, f"{name} (cannot be mapped|holds something else)")
    assert not Payload.loaded
    pickle.loads(pickle.dumps(payload))
    assert Payload.loaded  # it would have shown
    Payload.loaded = False


HEADERS = [
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 12, 36, 3)}",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (10, 12, 36, 3, " + b"9" * 30 + b")}",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (10, 12, 36, 3)}",
    b"{'descr': [('a', '|u1'), ('a', '|u1')], 'fortran_order': False, 'shape': (10,)}",
    b"{'descr': '|u1', 'fortran_order': 3, 'shape': (10, 12, 36, 3)}",
    b"{[]: 1}",
    b"{1: 2, 'a': 3}",
    b"{'descr': '''",
    b"(" * 5000,
    b"-" * 9000 + b"1",
    b"\0" * 50,
    b"\xff" * 50,
    b"import os",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_hostile_headers_are_refused(folder, header):
    """Numpy's parser meets each of these with another kind of error."""
    data = (folder / "images.npy").read_bytes()[128:]
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    (folder / "images.npy").write_bytes(start + header + data)
    assert len(refused(folder, "images.npy cannot be mapped")) < 600


def test_an_edited_table_is_refused(folder):
    path = folder / "frames.csv"
    original = path.read_text()
    path.write_text(original.replace(",2,", ",3,", 1))
    refused(folder, "frames.csv is not the table that manifest.json was written for")
    path.write_text(original + "\n")
    refused(folder, "frames.csv is not the table")


def swap(text, first, second):
    lines = text.splitlines(keepends=True)
    lines[first], lines[second] = lines[second], lines[first]
    return "".join(lines)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: "", "is no table of 10 frames with the columns drive,camera"),
        (lambda text: "\n", "is no table"),
        (lambda text: text.replace("digest", "hash", 1), "is no table"),
        (lambda text: text.replace("_0001,2,0,", "_0001,5,0,", 1), "is no table"),
        (lambda text: text.replace("_0001,2,0,", "_0001,2,-1,", 1), "is no table"),
        (lambda text: text.replace("_0001,2,0,", "_0001,2,0.0,", 1), "is no table"),
        (lambda text: text.replace("_0001,2,0,", "_0001,2,٣,", 1), "is no table"),
        (lambda text: text.replace("2000_01_01_", "../../etc", 1), "is no table"),
        (lambda text: text[: text.rindex("2000")], "is no table"),
        (lambda text: text + text.splitlines()[-1], "is no table"),
        (lambda text: swap(text, 1, 2), "names a frame or a row twice, out of order, or beyond"),
        (lambda text: re.sub(r"(?m)^(.*_0001,2,4),4,", r"\1,3,", text), "a row twice"),
        (lambda text: re.sub(r"(?m)^(.*_0001,2,4),4,", r"\1,10,", text), "beyond the manifest's"),
        (lambda text: text.replace("_0001,2,1,", "_0001,2,0,", 1), "names a frame"),
        (
            lambda text: re.sub(r"(_0001,2,0,0),\d+,", r"\1,1,", text),
            "counts .* points and manifest",
        ),
    ],
)
def test_a_table_that_cannot_be_is_refused_even_with_its_fingerprint(folder, edit, message):
    path = folder / "frames.csv"
    before = path.read_text()
    path.write_text(edit(before))
    assert path.read_text() != before
    recomputed(folder)
    refused(folder, f"frames.csv .*{message}")


@pytest.mark.parametrize(
    "change",
    [
        dict(frames=9),
        dict(frames=0),
        dict(frames="many"),
        dict(rows=9),
        dict(rows=11),
        dict(points=1),
        dict(points=-1),
        dict(size=[36, 12]),
        dict(size=[12]),
        dict(size=[513, 512]),
        dict(size=[12, 10**400]),
        dict(fingerprint="0" * 16),
        dict(format="ubnlib-packed-depth-2"),
        dict(surprise=1),
        dict(versions=None),
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_is_refused(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    refused(folder, r"manifest.json|frames.csv|images.npy|depth.npy")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 100_000, b"{'a': 1}"])
def test_a_manifest_that_is_none_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    refused(folder, "manifest.json is no manifest of a packed set")


def test_the_manifest_of_another_set_is_refused(folder, raw, tmp_path):
    other = KittiRaw(raw.root, size=SIZE, keys=[*raw.keys[:-1]])
    another = prepare(other, tmp_path / "other", workers=1, progress=False)
    (folder / "manifest.json").write_bytes((another.folder / "manifest.json").read_bytes())
    refused(folder, "frames.csv is not the table that manifest.json was written for")
    (folder / "frames.csv").write_bytes((another.folder / "frames.csv").read_bytes())
    refused(folder, "images.npy holds something else")


# Verification


def test_verify_passes_over_a_whole_set(packed):
    verify(packed)
    verify(packed, workers=1)


@pytest.mark.parametrize("name", ["images.npy", "depth.npy"])
def test_verify_finds_each_flipped_bit(folder, packed, name):
    path = folder / name
    whole = path.read_bytes()
    first = 128  # of the header; every byte behind it is some frame's
    places = [first, first + 1, len(whole) // 2, len(whole) - 1]
    for place in places:
        for bit in (1, 128):
            data = bytearray(whole)
            data[place] ^= bit
            path.write_bytes(data)
            with pytest.raises(ValueError, match=r"Frame \('2000_01_01', '0001', \d, \d\) in") as e:
                verify(PackedDepth(folder))
            assert "is not what was written there: remove the folder" in str(e.value)
            expected = place_of(place - first, name, packed)
            assert str(tuple(packed.keys[expected])) in str(e.value)


def place_of(offset, name, packed):
    """The frame that a byte belongs to."""
    if name == "images.npy":
        return offset // (3 * SIZE[0] * SIZE[1])
    counts = [len(packed.stored(index)[1]) for index in range(FRAMES)]
    return int(np.searchsorted(np.cumsum(counts) * 4, offset, side="right"))


def test_verify_finds_points_that_moved_to_the_next_frame(folder):
    """The table's counts and the sum of points may fit and the frames not."""
    path = folder / "frames.csv"
    lines = path.read_text().splitlines()
    fields = [line.split(",") for line in lines]
    fields[1][4], fields[2][4] = str(int(fields[1][4]) - 1), str(int(fields[2][4]) + 1)
    path.write_text("".join(",".join(field) + "\n" for field in fields))
    recomputed(folder)
    with pytest.raises(ValueError, match="is not what was written there"):
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
