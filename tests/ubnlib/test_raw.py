"""KITTI Raw on small drives written here, on broken ones, on real frames; improved depth maps."""

import errno
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

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
    write_textured,
)
from ubnlib.kitti import FrameKey, KittiRaw
from ubnlib.kitti.raw import read_image


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path)


def test_frames_are_sorted_drives_named_and_others_chosen(root):
    dataset = KittiRaw(root)
    expected = [(DATE, "0001", camera, frame) for camera in (2, 3) for frame in (0, 2, 3)]
    assert dataset.keys == [*expected, (DATE, "0002", 2, 1)]
    assert dataset.drives == [DRIVE, f"{DATE}_drive_0002"]
    right = root / DATE / f"{DATE}_drive_0002_sync" / "image_03"
    assert dataset.left_out == [(right, "cameras without a PNG or JPEG")]
    assert KittiRaw(root, drives=[DRIVE]).report() == "frames: 6, drives: 1, left out: 0"
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
    assert dataset.drives == [f"{DATE}_drive_0002"] and len(dataset.left_out) == 7
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
        (dict(root="nowhere"), FileNotFoundError, "nowhere cannot be read .*DATE_drive_NNNN_sync"),
        (dict(root=DATE), ValueError, f"{DATE} holds no drive.*DATE_drive_NNNN_sync"),
        (dict(drives=["0001"]), ValueError, f"Drive 0001 is not below .*{DRIVE}, .*_drive_0002"),
        (dict(cameras=(0,)), ValueError, "No frame .*cameras without a PNG or JPEG: 2; .*image_00"),
        (dict(size=(0, 832)), ValueError, r"size is .*expected \(height, width\)"),
    ],
)
def test_what_is_not_there_is_named(root, options, kind, message):
    with pytest.raises(kind, match=message):
        KittiRaw(root / options.pop("root", ""), **options)


def test_misplaced_drives_are_left_out_by_name(root):
    here = root / DATE / f"{DATE}_drive_0002_sync"
    wrong = [
        root / here.name,
        root / "2000_02_02" / here.name,
        here.with_name(f"{DATE}_drive_2_sync"),
    ]
    for path in wrong:
        shutil.copytree(here, path)
    (root / f"{DATE}_drive_0009_sync").touch()  # a file, as is any archive
    dataset = KittiRaw(root, cameras=(2,))
    assert len(dataset) == 4
    assert dataset.left_out == [(path, "misplaced or misnamed drives") for path in sorted(wrong)]


def test_a_date_that_may_not_be_read_is_named(root, monkeypatch):
    def listdir(folder, original=os.listdir):
        if folder == root / "2000_02_02":  # `chmod 0` would not stop root
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        return original(folder)

    (root / "2000_02_02").mkdir()
    assert len(KittiRaw(root)) == 7
    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(
        PermissionError, match=r"Folder .*2000_02_02 cannot be read .*denied.*expec"
    ):
        KittiRaw(root)


def test_calibrations_are_read_at_once(root):
    path = root / DATE / "calib_cam_to_cam.txt"
    path.write_text(CAM_TO_CAM.replace("P_rect_03", "P_03"))
    left = KittiRaw(root)
    assert left.keys == KittiRaw(root, cameras=(2,)).keys and len(left) == 4
    assert [file for file, _ in left.left_out[1:]] == [
        image_path(root, n, camera=3) for n in (0, 2, 3)
    ]
    assert all("has no key P_rect_03" in reason for _, reason in left.left_out[1:])
    for options in (dict(cameras=(3,)), dict(keys=[FrameKey(DATE, "0001", 3, 0)])):
        with pytest.raises(ValueError, match="no key P_rect_03"):
            KittiRaw(root, **options)


def test_a_date_without_calibration_stops_no_other(root):
    write_textured(root, date="2000_02_02", drive=7, frames=(0, 1), cameras=(2,))
    assert "2000_02_02_drive_0007" in KittiRaw(root).drives
    (root / "2000_02_02" / "calib_velo_to_cam.txt").unlink()
    dataset = KittiRaw(root, cameras=(2,))
    assert len(dataset) == 4 and dataset.drives == [DRIVE, f"{DATE}_drive_0002"]
    assert len(dataset.left_out) == 2
    assert all("calib_velo_to_cam.txt is missing" in reason for _, reason in dataset.left_out)
    with pytest.raises(FileNotFoundError, match=r"calib_velo_to_cam\.txt is missing"):
        KittiRaw(root, keys=[FrameKey("2000_02_02", "0007", 2, 0)])


def test_jpeg_gray_and_missing_cameras_are_read_or_named(root):
    for frame in (0, 2, 3):
        image = Image.open(image_path(root, frame, camera=3))
        image.save(image_path(root, frame, camera=3).with_suffix(".jpg"), quality=95)
    for frame in (2, 3):  # of frame 0 there are both
        image_path(root, frame, camera=3).unlink()
    write_frame(root, 3, 0, cameras=(0, 1))
    dataset = KittiRaw(root)
    assert [key[2:] for key in dataset.keys if key.drive == "0001"] == [
        (camera, frame) for camera in (2, 3) for frame in (0, 2, 3)
    ]
    suffixes = [dataset.files(FrameKey(DATE, "0001", 3, n))[0].suffix for n in (0, 2, 3)]
    assert suffixes == [".png", ".jpg", ".jpg"]
    for key in dataset.keys:
        pixel = dataset.image(dataset.index(key))[:, 5, 7].int()
        assert (pixel - torch.tensor(color(int(key.drive), *key[2:]))).abs().max() <= 3
    gray = root / DATE / f"{DATE}_drive_0003_sync"
    named = {path for path, reason in dataset.left_out if reason.startswith("cameras without")}
    assert {gray / "image_02", gray / "image_03"} < named and len(named) == 3


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return read_image(path).permute(1, 2, 0).numpy()


def test_other_pixel_formats_are_read_right(tmp_path):
    generator = np.random.default_rng(0)
    palette = generator.integers(0, 256, (16, 3), np.uint8)
    codes = generator.integers(0, 16, (12, 18), np.uint8)
    rgb = palette[codes]
    gray = generator.integers(0, 256, (12, 18), np.uint8)
    path = tmp_path / "a.png"
    np.testing.assert_array_equal(saved(path, rgb), rgb)
    image = Image.fromarray(codes, "L")
    image.putpalette(palette.tobytes())
    image.save(path)
    np.testing.assert_array_equal(read_image(path).permute(1, 2, 0).numpy(), rgb)
    np.testing.assert_array_equal(saved(path, np.dstack([rgb, gray])), rgb)  # alpha does not count
    for pixels in (gray, gray.astype(np.uint16) * 256 + 7):
        np.testing.assert_array_equal(saved(path, pixels), np.dstack([gray] * 3))
    held = Image.Exif()
    held[274] = 3  # upside down
    np.testing.assert_array_equal(saved(path, rgb[::-1, ::-1].copy(), exif=held), rgb)
    smooth = np.dstack([np.add.outer(np.arange(24), np.arange(36)).astype(np.uint8)] * 3)
    turned = saved(tmp_path / "b.jpg", smooth[::-1, ::-1].copy(), exif=held, quality=98)
    assert np.abs(turned.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("exif", ["4d4d002a00", "xy"])
def test_an_image_with_damaged_exif_is_named(tmp_path, exif):
    held = PngImagePlugin.PngInfo()
    held.add_text("Raw profile type exif", f"\nexif\n 10\n457869660000{exif}\n")
    with pytest.raises(ValueError, match=r"Image .*a\.png cannot be read \(.*: expected a whole"):
        saved(tmp_path / "a.png", np.zeros((12, 18, 3), np.uint8), pnginfo=held)


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
    assert len(dataset) == 6 * 2 + 39
    assert [path.name for path, _ in dataset.left_out] == ["image_03"]
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
