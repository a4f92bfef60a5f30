"""KITTI Raw on small drives written here, on broken ones, on real frames; improved depth maps."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from small_kitti import (
    CAM_TO_CAM,
    DATE,
    DRIVE,
    HEIGHT,
    WIDTH,
    color,
    image_path,
    scan_path,
    write_frame,
    write_root,
)
from ubnlib.kitti import Calibration, FrameKey, KittiRaw, project_velodyne, read_velodyne
from ubnlib.kitti.raw import ImprovedGroundTruth, read_depth_png


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path)


def test_frames_are_sorted_drives_named_and_others_chosen(root):
    dataset = KittiRaw(root)
    expected = [(DATE, "0001", camera, frame) for camera in (2, 3) for frame in (0, 2, 3)]
    assert dataset.keys == [*expected, (DATE, "0002", 2, 1)]
    assert dataset.drives == [DRIVE, f"{DATE}_drive_0002"]
    assert dataset.left_out == []
    assert dataset.report() == "frames: 7, drives: 2, left out: 0"
    assert KittiRaw(root, (3,), drives=[DRIVE]).keys == expected[3:]
    assert len(KittiRaw(root, cameras=(2,))) == 4


def test_items_are_the_files_of_their_keys(root):
    dataset = KittiRaw(root)
    for index, key in enumerate(dataset.keys):
        item = dataset[index]
        assert item["key"] == key
        assert item["image"].dtype == torch.uint8 and item["image"].shape == (3, HEIGHT, WIDTH)
        assert tuple(item["image"][:, 5, 7].tolist()) == color(int(key.drive), *key[2:])
        assert item["depth"].dtype == torch.float32 and item["depth"].shape == (HEIGHT, WIDTH)
        measured = item["depth"][item["depth"] > 0]
        assert len(measured) > 500 and (measured == 10 + key.frame).all()


def test_a_frame_without_its_partner_is_left_out_and_counted(root):
    scan_path(root, 2).unlink()
    image_path(root, 3, camera=3).unlink()
    write_frame(root, 1, 7, cameras=())
    dataset = KittiRaw(root, drives=[DRIVE])
    assert [key[2:] for key in dataset.keys] == [(2, 0), (2, 3), (3, 0)]
    assert dataset.left_out == [
        (image_path(root, 2), "images without a scan"),
        (scan_path(root, 7), "scans without an image of camera 2"),
        (image_path(root, 2, camera=3), "images without a scan"),
        (scan_path(root, 3), "scans without an image of camera 3"),
        (scan_path(root, 7), "scans without an image of camera 3"),
    ]
    assert dataset.report() == (
        "frames: 3, drives: 1, left out: 5 (images without a scan: 2, scans without an image of "
        f"camera 2: 1, scans without an image of camera 3: 2; the first: {image_path(root, 2)})"
    )


def test_a_drive_whose_scans_are_all_missing_does_not_stop_the_others(root):
    shutil.rmtree(scan_path(root, 0).parents[1])
    for name in ("._0000000000.png", "12.png", "0000000004.png.part"):  # no frames
        (image_path(root, 0).parent / name).write_bytes(b"junk")
    dataset = KittiRaw(root)
    assert dataset.drives == [f"{DATE}_drive_0002"] and len(dataset.left_out) == 6
    with pytest.raises(ValueError, match=r"No frame below .* both .*images without a scan: 6"):
        KittiRaw(root, drives=[DRIVE])


def test_resized_frames_keep_image_and_depth_aligned(root):
    # Left half black, right half white; a near wall on the left and a far one on the right.
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, WIDTH // 2 :] = 255
    Image.fromarray(pixels).save(image_path(root, 0))
    generator = np.random.default_rng(0)
    columns, rows = generator.uniform(-0.5, 59.5, 9000), generator.uniform(-0.5, 19.5, 9000)
    x = np.where(columns < 29.5, 10.0, 20.0)
    y, z = (29.5 - columns) * x / 40, (9.5 - rows) * x / 40
    np.stack([x, y, z, x], axis=1).astype(np.float32).tofile(scan_path(root, 0))
    item = KittiRaw(root, cameras=(2,), size=(10, 30), drives=[DRIVE])[0]
    assert item["image"].shape == (3, 10, 30) and item["depth"].shape == (10, 30)
    assert (item["image"][:, :, :14] == 0).all() and (item["image"][:, :, 16:] == 255).all()
    np.testing.assert_allclose(item["depth"][:, :15], 10.0, rtol=1e-6)
    np.testing.assert_allclose(item["depth"][:, 15:], 20.0, rtol=1e-6)


def test_resizing_is_antialiased(root):
    # Columns black, white, white, black average to gray; at a quarter of the width a resize
    # without antialiasing looks at the two white ones alone.
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, 1::4] = pixels[:, 2::4] = 254
    Image.fromarray(pixels).save(image_path(root, 0))
    image = KittiRaw(root, size=(5, 15)).image(0)
    assert (image[:, :, 1:-1].int() - 127).abs().max() <= 2


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (dict(root="nowhere"), FileNotFoundError, "nowhere is missing.*DATE_drive_NNNN_sync"),
        (dict(root=DATE), ValueError, f"{DATE} holds no drive.*DATE_drive_NNNN_sync"),
        (dict(drives=["0001"]), ValueError, f"Drive 0001 is not below .*{DRIVE}, .*_drive_0002"),
        (dict(cameras=(0,)), ValueError, "holds no images.* in image_00"),
        (dict(size=(0, 832)), ValueError, r"size is .*expected \(height, width\)"),
    ],
)
def test_what_is_not_there_is_named(root, options, kind, message):
    with pytest.raises(kind, match=message):
        KittiRaw(root / options.pop("root", ""), **options)


def test_calibrations_are_read_at_once(root):
    path = root / DATE / "calib_cam_to_cam.txt"
    path.write_text(CAM_TO_CAM.replace("P_rect_03", "P_03"))
    assert len(KittiRaw(root, cameras=(2,))) == 4
    with pytest.raises(ValueError, match="no key P_rect_03"):
        KittiRaw(root)


def test_broken_frames_are_named(root):
    dataset, png, scan = KittiRaw(root), image_path(root, 0), scan_path(root, 0)
    Image.new("RGB", (30, 10)).save(png)
    with pytest.raises(ValueError, match=r"0000000000\.png is 30x10 pixels: expected the 60x20"):
        dataset.image(0)
    png.write_bytes(b"not a PNG at all")
    with pytest.raises(ValueError, match=r"0000000000\.png cannot be read"):
        dataset.image(0)
    np.full((9, 4), np.nan, np.float32).tofile(scan)
    with pytest.raises(ValueError, match=r"0000000000\.bin has no point in the image of camera 2"):
        dataset.depth(0)
    scan.write_bytes(b"")
    with pytest.raises(ValueError, match=r"0000000000\.bin has 0 bytes"):
        dataset.depth(0)


def test_real_frames(kitti_sample):
    """Drive 0001 has frames 0 to 5 of both cameras, 0052 has 39 of the left one alone."""
    dataset = KittiRaw(kitti_sample / "kitti_raw", size=(64, 208))
    assert dataset.drives == ["2011_09_26_drive_0001", "2011_09_26_drive_0052"]
    assert len(dataset) == 6 * 2 + 39 and dataset.left_out == []
    for index in (0, 7, 50):
        item = dataset[index]
        assert item["image"].shape == (3, 64, 208) and item["image"].float().std() > 30
        measured = item["depth"][item["depth"] > 0]
        assert 0.2 < len(measured) / (64 * 208) < 0.8
        assert 1.5 < measured.min() and measured.max() < 100 and 5 < measured.median() < 25
    native = KittiRaw(kitti_sample / "kitti_raw", cameras=(3,), drives=["2011_09_26_drive_0001"])
    assert native[5]["image"].shape == (3, 375, 1242) and native[5]["depth"].shape == (375, 1242)


def test_frames_asked_for_by_key(root):
    everything = KittiRaw(root)
    chosen = [everything.keys[5], everything.keys[1]]
    dataset = KittiRaw(root, keys=reversed(chosen))
    assert dataset.keys == sorted(chosen) and dataset.drives == [DRIVE]
    assert [dataset.index(key) for key in dataset.keys] == [0, 1]
    assert torch.equal(dataset[0]["image"], everything[1]["image"])
    with pytest.raises(KeyError):
        dataset.index(everything.keys[0])
    gone = FrameKey(DATE, "0001", 2, 9)
    with pytest.raises(ValueError, match=r"1 of the 3 frames asked for .*'0001', 2, 9"):
        KittiRaw(root, keys=[*chosen, gone])


def test_projection_is_that_of_the_frame_at_the_datasets_size(root):
    for dataset, factor in ((KittiRaw(root), 1.0), (KittiRaw(root, size=(10, 30)), 0.5)):
        for camera, index in ((2, 0), (3, 3)):
            u, v, depth = dataset.projection(index) @ [10.0, 1.0, -1.0, 1.0]
            baseline = 2.0 if camera == 3 else 0.0  # 20 / 10 m
            expected = (29.5 - 4 - baseline + 0.5) * factor - 0.5, (9.5 + 4 + 0.5) * factor - 0.5
            assert (u / depth, v / depth) == pytest.approx(expected)


# Improved depth maps

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
    depth = read_depth_png(str(write_depth(tmp_path / "map.png")))
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, [[0, 1 / 256, 1, 255.99609375], [100, 1.171875, 0, 80]])


def test_maps_are_found_by_key_in_either_part(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds neither train nor val"):
        ImprovedGroundTruth(tmp_path)
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


def test_other_files_are_refused(tmp_path):
    path = write_depth(tmp_path / "map.png", (PIXELS // 256).astype(np.uint8))
    with pytest.raises(ValueError, match=f"{path} is of Pillow's mode L: expected a whole 16"):
        read_depth_png(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=f"{path} cannot be read .*: expected a whole 16"):
        read_depth_png(path)


def test_damaged_files_are_refused_or_read_right(tmp_path):
    # In a sparse map of this kind, Pillow alone takes one damaged byte in twenty for depth.
    generator = np.random.default_rng(0)
    pixels = generator.integers(1, 65536, (20, 30)).astype(np.uint16)
    pixels[generator.uniform(size=pixels.shape) > 0.1] = 0
    path = write_depth(tmp_path / "map.png", pixels)
    content, refused = path.read_bytes(), 0
    cut = [content[:length] for length in range(len(content))]
    flipped = [
        content[:place] + bytes([byte ^ bits]) + content[place + 1 :]
        for place, byte in enumerate(content)
        for bits in (1, 255)
    ]
    for damaged in (*cut, *flipped):
        path.write_bytes(damaged)
        try:
            depth = read_depth_png(path)
        except ValueError as error:
            assert "expected a whole 16-bit grayscale PNG" in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(depth, pixels.astype(np.float32) / 256)
    assert refused > 0.95 * 3 * len(content) > 700


def test_real_maps_agree_with_the_scan(kitti_sample):
    key = FrameKey("2011_09_26", "0001", 3, 5)
    truth = ImprovedGroundTruth(kitti_sample / "kitti_depth")
    assert truth.available([key._replace(frame=4), key]) == [key]
    improved = truth.depth(key).numpy()
    with Image.open(truth.path(key)) as image:
        np.testing.assert_array_equal(improved * 256, np.array(image).astype(np.int64))
    assert improved.shape == (375, 1242)
    root = kitti_sample / "kitti_raw"
    projection = Calibration.load(root / key.date).projection(key.camera)
    scan = project_velodyne(read_velodyne(key.scan_path(root)), projection, improved.shape)
    assert (improved > 0).sum() > 3 * (scan > 0).sum()  # several scans accumulated
    both = (improved > 0) & (scan > 0)
    relative = np.abs(scan[both] / improved[both] - 1)
    assert both.sum() > 5000 and np.median(relative) < 0.015 and np.mean(relative < 0.05) > 0.95
