"""The reader of improved depth maps on maps written here, on broken ones, and on real ones."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ubnlib.kitti import Calibration, FrameKey, project_velodyne, read_velodyne
from ubnlib.kitti.raw import ImprovedGroundTruth, read_depth_png

KEY = FrameKey("2000_01_01", "0003", 2, 5)
PIXELS = np.array([[0, 1, 256, 65535], [25600, 300, 0, 20480]], np.uint16)


def path_of(root, key, part="train"):
    inside = f"proj_depth/groundtruth/image_0{key.camera}/{key.frame:010d}.png"
    return root / part / f"{key.date}_drive_{key.drive}_sync" / inside


def write_depth(path, pixels=PIXELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_depth_is_the_pixels_in_meters(tmp_path):
    depth = read_depth_png(write_depth(tmp_path / "map.png"))
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, [[0, 1 / 256, 1, 255.99609375], [100, 1.171875, 0, 80]])
    assert (read_depth_png(str(tmp_path / "map.png")) == depth).all()


def test_maps_are_found_by_key_in_either_part(tmp_path):
    other = KEY._replace(drive="0004", camera=3, frame=1234567890)
    write_depth(path_of(tmp_path, KEY))
    write_depth(path_of(tmp_path, other, "val"), PIXELS + 1)
    truth = ImprovedGroundTruth(str(tmp_path))
    assert truth.path(KEY) == path_of(tmp_path, KEY)
    assert truth.path(other) == path_of(tmp_path, other, "val")
    depth = truth.depth(other)
    assert depth.dtype == torch.float32 and depth.shape == (2, 4)
    assert depth[0, 2] == 257 / 256 and truth.depth(KEY)[0, 2] == 1.0
    missing = KEY._replace(frame=6), KEY._replace(camera=3), KEY._replace(date="2000_01_02")
    assert truth.available([missing[0], other, *missing[1:], KEY]) == [other, KEY]
    for key in missing:
        with pytest.raises(FileNotFoundError, match=f"{key.frame:010d}.png is missing.*available"):
            truth.depth(key)


def test_a_folder_without_the_parts_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"{folder} holds neither train nor val"):
            ImprovedGroundTruth(folder)


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [
        ((PIXELS // 256).astype(np.uint8), "L"),
        (np.zeros((4, 5, 3), np.uint8), "RGB"),
        (PIXELS > 0, "1"),
    ],
)
def test_other_images_are_refused(tmp_path, pixels, mode):
    path = write_depth(tmp_path / "map.png", pixels)
    with pytest.raises(ValueError, match=f"{path} is of Pillow's mode {mode}: expected a whole 16"):
        read_depth_png(path)


def test_files_that_are_no_png_are_refused(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "tiff.png", format="TIFF")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("<html>404</html>")
    for name in ("tiff", "empty", "text"):
        with pytest.raises(ValueError, match=f"{name}.png cannot be read .*: expected a whole 16"):
            read_depth_png(tmp_path / f"{name}.png")
    for missing in (tmp_path / "nothing.png", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"Depth map {missing} is missing"):
            read_depth_png(missing)


def test_a_header_of_absurd_size_is_refused(tmp_path):
    content = write_depth(tmp_path / "huge.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + content[24:29]
    forged = header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "huge.png").write_bytes(content[:12] + forged + content[33:])
    with pytest.raises(ValueError, match=r"huge.png cannot be read .*decompression bomb"):
        read_depth_png(tmp_path / "huge.png")


def test_damaged_files_are_refused_or_read_right(tmp_path):
    # In a sparse map of this kind, Pillow alone takes one damaged byte in twenty for depth.
    generator = np.random.default_rng(0)
    pixels = generator.integers(1, 65536, (40, 60)).astype(np.uint16)
    pixels[generator.uniform(size=pixels.shape) > 0.1] = 0
    content = write_depth(tmp_path / "map.png", pixels).read_bytes()
    cut = [content[:length] for length in range(len(content))]
    flipped = [
        content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]
        for place in range(len(content))
        for bits in (1, 255)
    ]
    refused = 0
    for damaged in (*cut, *flipped):
        (tmp_path / "damaged.png").write_bytes(damaged)
        try:
            depth = read_depth_png(tmp_path / "damaged.png")
        except ValueError as error:
            assert "expected a whole 16-bit grayscale PNG" in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(depth, pixels.astype(np.float32) / 256)
    assert refused > 0.97 * 3 * len(content) > 3000


@pytest.mark.parametrize("camera", [2, 3])
def test_real_maps_agree_with_the_scan(kitti_sample, camera):
    key = FrameKey("2011_09_26", "0001", camera, 5)
    truth = ImprovedGroundTruth(kitti_sample / "kitti_depth")
    assert truth.available([key._replace(frame=4), key]) == [key]
    improved = truth.depth(key).numpy()
    with Image.open(truth.path(key)) as image:
        np.testing.assert_array_equal(improved * 256, np.array(image).astype(np.int64))
    assert improved.shape == (375, 1242)
    root = kitti_sample / "kitti_raw"
    projection = Calibration.load(root / key.date).projection(camera)
    scan = project_velodyne(read_velodyne(key.scan_path(root)), projection, improved.shape)
    assert (improved > 0).sum() > 3 * (scan > 0).sum()  # several scans accumulated
    both = (improved > 0) & (scan > 0)
    relative = np.abs(scan[both] / improved[both] - 1)
    assert both.sum() > 5000 and np.median(relative) < 0.015 and np.mean(relative < 0.05) > 0.95
