"""Recorded RGB-D folders: pairing, resizing against brute force, and training on them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.depth.rgbd import RgbdFrames, split_by_time
from small_rgbd import NATIVE, random_frame, write_folder, write_frame
from ubnlib.kitti import FrameKey, keep_every

SIZE = (4, 6)


def nearest_surface(raw, size, scale):
    """Take each cell's smallest measurement, pixel by pixel; a cell has every pixel it touches."""
    out = np.zeros(size, np.float32)
    (height, width), (rows, columns) = raw.shape, size
    for i in range(rows):
        for j in range(columns):
            inside = [
                int(raw[y, x])
                for y in range(height)
                for x in range(width)
                if y * rows < (i + 1) * height and (y + 1) * rows > i * height
                if x * columns < (j + 1) * width and (x + 1) * columns > j * width
                if 0 < raw[y, x] < 65535
            ]
            out[i, j] = np.float32(min(inside)) / np.float32(scale) if inside else 0
    return out


def antialiased(pixels, size):
    """Resize bilinearly with a triangle as wide as the scale, in float64."""

    def weights(given, wanted):
        scale = given / wanted
        centers = (np.arange(wanted)[:, None] + 0.5) * scale
        triangle = 1 - np.abs(np.arange(given) + 0.5 - centers) / max(scale, 1)
        triangle = triangle.clip(0)
        return triangle / triangle.sum(1, keepdims=True)

    rows, columns = weights(pixels.shape[0], size[0]), weights(pixels.shape[1], size[1])
    return np.einsum("iy,jx,yxc->cij", rows, columns, pixels.astype(np.float64))


@pytest.mark.parametrize(
    ("size", "native", "scale"), [((4, 6), (10, 15), 1000.0), (NATIVE, NATIVE, 256.0)]
)
def test_frames_are_resized_as_by_brute_force(tmp_path, size, native, scale):
    write_folder(tmp_path, range(2), native)
    frames = RgbdFrames(tmp_path, size, scale)
    for index in range(2):
        pixels, depth = random_frame(index, native)
        assert np.array_equal(frames.depth(index), nearest_surface(depth, size, scale))
        assert np.abs(frames.image(index).numpy() - antialiased(pixels, size)).max() <= 1
    assert frames.image(0).dtype == torch.uint8 and frames.depth(0).dtype == torch.float32


def test_gaps_and_saturated_pixels_are_no_measurement(tmp_path):
    depth = np.full(NATIVE, 2000, np.uint16)
    depth[:5] = 0
    depth[5:, :5] = 65535
    write_frame(tmp_path, "1", random_frame(0)[0], depth)
    measured = RgbdFrames(tmp_path, (2, 3)).depth(0)
    assert measured.tolist() == [[0, 0, 0], [0, 2, 2]]


def test_frames_are_paired_by_name(tmp_path):
    for frame in (10, 2, 7):  # without leading zeros: by name 10 comes first
        write_frame(tmp_path, f"frame-{frame}", *random_frame(frame))
    write_frame(tmp_path, "frame-3", random_frame(3)[0], None)
    write_frame(tmp_path, "frame-4", None, random_frame(4)[1])
    write_frame(tmp_path, "frame-5", random_frame(5)[0], np.zeros(NATIVE, np.uint16))
    (tmp_path / "image" / "._frame-2.png").write_bytes(b"what some systems leave")
    (tmp_path / "image" / "notes.txt").write_text("of the recording")
    frames = RgbdFrames(tmp_path, SIZE)
    assert [key.frame for key in frames.keys] == [2, 7, 10]
    assert frames.names == ["frame-2", "frame-7", "frame-10"]
    for index, key in enumerate(frames.keys):
        assert frames.index(key) == index
        depth = random_frame(key.frame)[1]
        assert np.array_equal(frames.depth(index), nearest_surface(depth, SIZE, 1000))
        pixels = antialiased(random_frame(key.frame)[0], SIZE)
        assert np.abs(frames.image(index).numpy() - pixels).max() <= 1
    assert dict((path.name, reason) for path, reason in frames.left_out) == {
        "frame-3.png": "images without a depth map",
        "frame-4.png": "depth maps without an image",
        "frame-5.png": "depth maps without a measurement",
    }
    report = frames.report()
    assert "frames: 3, sequences: 1, left out: 3 (" in report and "image: 1" in report


def test_subfolders_are_sequences(tmp_path):
    for name in ("b/000", "b/001", "b/002", "a/000", "a/005"):
        write_frame(tmp_path, name, *random_frame(len(name)))
    frames = RgbdFrames(tmp_path, SIZE)
    assert frames.names == ["a/000", "a/005", "b/000", "b/001", "b/002"]
    assert [(key.drive, key.frame) for key in frames.keys] == [
        *(("0000", frame) for frame in (0, 5)),
        *(("0001", frame) for frame in (0, 1, 2)),
    ]
    assert keep_every(frames.keys, 2).tolist() == [True, False, True, False, True]


def test_batches_hold_the_frames_asked_for(tmp_path):
    frames = RgbdFrames(write_folder(tmp_path), SIZE)
    batch = frames.batch([4, 0, 4])
    assert batch.images.shape == (3, 3, *SIZE) and batch.images.dtype == torch.uint8
    for row, index in enumerate((4, 0, 4)):
        assert torch.equal(batch.images[row], frames.image(index))
        assert torch.equal(batch.depth()[row], frames.depth(index))
    unlabeled = frames.batch([4, 0], depth=False)
    assert torch.equal(unlabeled.images, batch.images[:2])
    assert torch.equal(unlabeled.depth(), torch.zeros(2, *SIZE))
    with pytest.raises(IndexError, match="positions below 6"):
        frames.batch([6])


def test_the_fingerprint_stands_for_every_byte(tmp_path):
    write_folder(tmp_path, range(3))
    first = RgbdFrames(tmp_path, NATIVE).fingerprint
    assert len(first) == 16 and int(first, 16) >= 0
    assert RgbdFrames(tmp_path, NATIVE).fingerprint == first
    pixels, depth = random_frame(1)
    prints = {first, RgbdFrames(tmp_path, SIZE).fingerprint}
    prints.add(RgbdFrames(tmp_path, NATIVE, 999.0).fingerprint)
    for array, where in ((pixels, (9, 14, 2)), (depth, (9, 14))):
        array[where] ^= 1
        write_frame(tmp_path, "000001", pixels, depth)
        prints.add(RgbdFrames(tmp_path, NATIVE).fingerprint)
        array[where] ^= 1
    write_frame(tmp_path, "000001", pixels, depth)
    assert RgbdFrames(tmp_path, NATIVE).fingerprint == first
    for folder in ("image", "depth"):  # the same bytes at another time
        (tmp_path / folder / "000002.png").rename(tmp_path / folder / "000003.png")
    prints.add(RgbdFrames(tmp_path, NATIVE).fingerprint)
    assert len(prints) == 6


def keys_of(count, drive="0000"):
    return [FrameKey("0000_00_00", drive, 0, 3 * frame) for frame in range(count)]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(30, 90), min_size=1, max_size=3),
    st.floats(0.1, 0.7),
    st.just(0.0) | st.floats(0.001, 0.2),
    st.randoms(),
)
def test_blocks_are_contiguous_in_every_sequence(lengths, train, gap, random):
    sequences = [keys_of(length, f"{number:04d}") for number, length in enumerate(lengths)]
    keys = [key for sequence in sequences for key in sequence]
    random.shuffle(keys)
    blocks = split_by_time(keys, train, gap)
    for sequence in sequences:
        first, last = ([key for key in block if key in sequence] for block in blocks)
        assert first == sequence[: len(first)] and last == sequence[-len(last) :]
        assert abs(len(first) - train * len(sequence)) <= 0.5
        between = len(sequence) - len(first) - len(last)
        assert abs(between - gap * len(sequence)) <= (1 if gap else 0) and (between > 0) == (
            gap > 0
        )


def test_impossible_blocks_are_refused():
    assert split_by_time(keys_of(3), 0.4) == (keys_of(1), keys_of(3)[2:])
    with pytest.raises(ValueError, match="drive_0000 has 2 frames, too few"):
        split_by_time(keys_of(2), 0.4)
    with pytest.raises(ValueError, match=r"train is 0\.9 and gap 0\.1: .*below 1 together"):
        split_by_time(keys_of(100), 0.9, 0.1)


def truncate(root):
    path = root / "depth" / "000002.png"
    path.write_bytes(path.read_bytes()[:-30])


def replace(name, array):
    return lambda root: Image.fromarray(array).save(root / name)


def renamed(root):
    for folder in ("image", "depth"):
        (root / folder / "000002.png").rename(root / folder / "01.png")


def separated(root):
    for path in root.glob("depth/*"):
        path.rename(path.with_name(f"other-{path.name}"))


IMAGE, DEPTH = random_frame(2)
FAULTS = {
    "truncated depth": (truncate, r"Depth map .*000002\.png cannot be read .*16-bit"),
    "aspect ratio": (
        replace("depth/000002.png", random_frame(0, (10, 17))[1]),
        r"000002\.png is 15x10 pixels and its depth map 17x10: expected one aspect ratio",
    ),
    "number twice": (renamed, r"Frames 000001 and 01 have the same number"),
    "no image folder": (
        lambda root: shutil.rmtree(root / "image"),
        r"Folder .*image is missing: expected image/NAME\.jpg",
    ),
    "no pairs": (separated, r"\(left out: 6 \(depth maps without an image: 3, images without"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_in_one_sentence(tmp_path, name):
    fault, message = FAULTS[name]
    write_folder(tmp_path, range(3))
    RgbdFrames(tmp_path, SIZE)
    fault(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        RgbdFrames(tmp_path, SIZE)
    assert "\n" not in str(caught.value)


def test_images_are_turned_as_viewers_do(tmp_path):
    view, depth = random_frame(3)
    stored = {1: view, 3: view[::-1, ::-1], 6: np.rot90(view, 1), 8: np.rot90(view, -1)}
    for orientation, pixels in stored.items():
        write_frame(tmp_path, str(orientation), None, depth)
        exif = Image.Exif()
        exif[274] = orientation
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(tmp_path / "image" / f"{orientation}.png", exif=exif)
    frames = RgbdFrames(tmp_path, NATIVE)
    assert len(frames) == 4
    for index in range(4):
        assert np.array_equal(frames.image(index).permute(1, 2, 0), view)


def test_other_kinds_of_images_are_read_or_left_out_by_name(tmp_path):
    write_folder(tmp_path, range(4))
    gray, depth = random_frame(1)[0][..., 0], random_frame(1)[1]
    palette = Image.fromarray(random_frame(0)[0]).quantize(256)
    palette.save(tmp_path / "image" / "000000.png")
    Image.fromarray(gray).save(tmp_path / "image" / "000001.png")
    Image.fromarray(depth).save(tmp_path / "image" / "000002.png")
    Image.fromarray(gray).save(tmp_path / "depth" / "000003.png")
    frames = RgbdFrames(tmp_path, NATIVE)
    assert frames.names == ["000000", "000001"]
    colors = np.array(palette.getpalette()).reshape(-1, 3)[np.array(palette)]
    assert np.array_equal(frames.image(0).permute(1, 2, 0), colors)
    assert all(np.array_equal(channel, gray) for channel in frames.image(1))
    assert frames.left_out == [
        (tmp_path / "depth" / "000003.png", "depth maps of mode L, not of 16 bits"),
        (tmp_path / "image" / "000002.png", "images of mode I;16, not of 8 bits"),
    ]
    assert "left out: 2 (depth maps of mode L, not of 16 bits: 1, images of" in frames.report()


def test_linked_rooms_are_read_once(tmp_path):
    for room in ("rec/image", "rec/depth"):
        (tmp_path / room).mkdir(parents=True)
    write_folder(tmp_path / "other", range(3))
    write_frame(tmp_path / "rec", "b/1", *random_frame(9))
    for kind in ("image", "depth"):
        folder = tmp_path / "rec" / kind
        (folder / "a").symlink_to(folder / "b")  # before the folder itself
        (folder / "b" / "up").symlink_to(folder)  # a loop
        (folder / "far").symlink_to(tmp_path / "other" / kind)
        (folder / "gone.png").symlink_to(tmp_path / "nothing.png")
    frames = RgbdFrames(tmp_path / "rec", SIZE)
    assert frames.names == ["b/1", "far/000000", "far/000001", "far/000002"]
    assert {key.drive for key in frames.keys} == {"0000", "0001"}
    left = {(path.relative_to(tmp_path / "rec").as_posix(), why) for path, why in frames.left_out}
    again, nothing = "links to folders that are there already", "links to nothing"
    assert left == {
        (f"{kind}/{name}", why)
        for kind in ("image", "depth")
        for name, why in (("a", again), ("b/up", again), ("gone.png", nothing))
    }


@pytest.mark.skipif("RGBD_ROOT" not in os.environ, reason="set RGBD_ROOT to a real recording")
def test_a_real_frame_reads_as_by_brute_force():
    root, size = Path(os.environ["RGBD_ROOT"]), (12, 16)
    frames = RgbdFrames(root, size)
    with Image.open(root / "depth" / f"{frames.names[0]}.png") as image:
        assert np.array_equal(frames.depth(0), nearest_surface(np.array(image), size, 1000))
    with Image.open(next((root / "image").glob(f"{frames.names[0]}.*"))) as image:
        pixels = antialiased(np.array(image.convert("RGB")), size)
    assert np.abs(frames.image(0).numpy() - pixels).max() <= 1.5
