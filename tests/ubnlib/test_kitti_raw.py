"""The dataset on small drives written here, on broken ones, and on real frames."""

import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

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
from ubnlib.kitti import FrameKey, KittiRaw, split_by_drive
from ubnlib.kitti.raw import read_image


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path)


def test_keys_are_sorted_and_drives_named(root):
    dataset = KittiRaw(root)
    expected = [(DATE, "0001", camera, frame) for camera in (2, 3) for frame in (0, 2, 3)]
    assert dataset.keys == [*expected, (DATE, "0002", 2, 1)]
    assert dataset.drives == [DRIVE, f"{DATE}_drive_0002"]
    assert dataset.left_out == []
    assert dataset.report() == "frames: 7, drives: 2, left out: 0"


def test_choice_of_cameras_and_drives(root):
    assert [key[2:] for key in KittiRaw(root, (3,), drives=[DRIVE]).keys] == [
        (3, 0),
        (3, 2),
        (3, 3),
    ]
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
    dataset = KittiRaw(root)
    assert dataset.drives == [f"{DATE}_drive_0002"] and len(dataset.left_out) == 6
    with pytest.raises(ValueError, match=r"No frame below .* both .*images without a scan: 6"):
        KittiRaw(root, drives=[DRIVE])


def test_files_of_other_names_are_no_frames(root):
    folder = image_path(root, 0).parent
    for name in ("._0000000000.png", "12.png", "0000000004.png.part"):
        (folder / name).write_bytes(b"junk")
    assert len(KittiRaw(root)) == 7


def test_an_unlabeled_frame_does_not_read_its_scan(root):
    dataset = KittiRaw(root)
    scan_path(root, 0).write_bytes(b"")
    assert dataset.image(0).shape == (3, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"0000000000\.bin has 0 bytes"):
        dataset.depth(0)


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


def test_batches_through_a_data_loader(root):
    batch = next(iter(DataLoader(KittiRaw(root), batch_size=7)))
    assert batch["image"].shape == (7, 3, HEIGHT, WIDTH)
    assert batch["depth"].shape == (7, HEIGHT, WIDTH)
    assert batch["key"].frame.tolist() == [0, 2, 3, 0, 2, 3, 1]


def test_missing_root_and_root_without_drives_are_named(tmp_path, root):
    with pytest.raises(FileNotFoundError, match=r"nowhere is missing.*DATE_drive_NNNN_sync"):
        KittiRaw(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"{DATE} holds no drive.*DATE_drive_NNNN_sync"):
        KittiRaw(root / DATE)


def test_unknown_drive_is_named_with_those_that_exist(root):
    with pytest.raises(ValueError, match=rf"Drive 0001 is not below .*{DRIVE}, .*_drive_0002"):
        KittiRaw(root, drives=["0001"])


def test_empty_drive_is_named(root):
    empty = root / DATE / f"{DATE}_drive_0003_sync"
    (empty / "image_02" / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"{empty.name} holds no images.*image_02 or image_03"):
        KittiRaw(root)


@pytest.mark.parametrize("name", ["calib_cam_to_cam.txt", "calib_velo_to_cam.txt"])
def test_missing_calibration_is_named(root, name):
    (root / DATE / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing"):
        KittiRaw(root)


def test_calibration_without_the_camera_fails_at_once(root):
    (root / DATE / "calib_cam_to_cam.txt").write_text(CAM_TO_CAM.replace("P_rect_03", "P_03"))
    assert len(KittiRaw(root, cameras=(2,))) == 4
    with pytest.raises(ValueError, match="no key P_rect_03"):
        KittiRaw(root)


def test_wrong_size_argument_is_refused(root):
    for size in ((256,), (0, 832)):
        with pytest.raises(ValueError, match=r"size is .*expected \(height, width\)"):
            KittiRaw(root, size=size)


def test_image_of_another_size_than_calibrated_is_named(root):
    Image.new("RGB", (30, 10)).save(image_path(root, 0))
    with pytest.raises(ValueError, match=r"0000000000\.png is 30x10 pixels: expected the 60x20"):
        KittiRaw(root).image(0)


def test_scan_that_misses_the_image_is_an_error_and_no_empty_map(root):
    np.full((9, 4), np.nan, np.float32).tofile(scan_path(root, 0))
    with pytest.raises(ValueError, match=r"0000000000\.bin has no point in the image of camera 2"):
        KittiRaw(root).depth(0)


def test_no_truncated_image_is_taken_for_a_whole_one(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    path = tmp_path / "0000000005.png"
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    refused = 0
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            image = read_image(path)
        except ValueError as error:
            assert re.search(r"Image .*0000000005\.png cannot be read", str(error))
            refused += 1
        else:  # cut inside the last bytes, behind the pixels
            np.testing.assert_array_equal(image.permute(1, 2, 0), pixels)
    assert refused > 0.9 * len(whole) / 7


def test_corrupt_image_and_missing_image_are_named(root):
    dataset = KittiRaw(root)
    image_path(root, 0).write_bytes(b"not a PNG at all")
    with pytest.raises(ValueError, match=r"0000000000\.png cannot be read"):
        dataset.image(0)
    image_path(root, 2).unlink()
    with pytest.raises(FileNotFoundError, match=r"0000000002\.png is missing"):
        dataset.image(1)


def test_an_image_with_a_damaged_byte_is_never_read(root):
    dataset, path = KittiRaw(root), image_path(root, 0)
    whole = path.read_bytes()
    for place in range(8, len(whole) - 12):  # all but the signature and the end mark
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"cannot be read|pixels: expected"):
            dataset.image(0)


def test_grayscale_images_are_repeated_over_channels(tmp_path):
    Image.new("L", (4, 3), 77).save(tmp_path / "gray.png")
    assert (read_image(tmp_path / "gray.png") == torch.full((3, 3, 4), 77)).all()


@given(st.sets(st.text("abc", min_size=1), min_size=2), st.floats(0.01, 0.99), st.randoms())
def test_split_is_a_partition_that_ignores_order(drives, share, random):
    train, test = split_by_drive(drives, share)
    assert train and test and [*train, *test] == sorted(drives)
    assert len(test) == 1 or len(train) == 1 or abs(len(test) - share * len(drives)) <= 0.5
    shuffled = list(drives) * 2
    random.shuffle(shuffled)
    assert split_by_drive(shuffled, share) == (train, test)


def test_split_refuses_what_cannot_be_split():
    with pytest.raises(ValueError, match=r"Cannot split 1 drive.*at least two"):
        split_by_drive(["a", "a"])
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            split_by_drive(["a", "b"], share)


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
    with pytest.raises(ValueError, match=r"3 frames asked for"):
        KittiRaw(root, drives=[f"{DATE}_drive_0002"], keys=everything.keys[:3])


def test_convention_reaches_the_projection(root):
    points = np.array([[10.0, 0, 0, 0]], np.float32)  # to pixel (29.5, 9.5), so to (30, 10)
    points.tofile(scan_path(root, 0))
    places = [
        tuple(map(int, KittiRaw(root, convention=name).depth(0).nonzero()[0]))
        for name in ("zero_based", "eigen")
    ]
    assert places == [(10, 30), (9, 29)]


def test_projection_is_that_of_the_frame_at_the_datasets_size(root):
    for dataset, factor in ((KittiRaw(root), 1.0), (KittiRaw(root, size=(10, 30)), 0.5)):
        for camera, index in ((2, 0), (3, 3)):
            u, v, depth = dataset.projection(index) @ [10.0, 1.0, -1.0, 1.0]
            baseline = 2.0 if camera == 3 else 0.0  # 20 / 10 m
            expected = (29.5 - 4 - baseline + 0.5) * factor - 0.5, (9.5 + 4 + 0.5) * factor - 0.5
            assert (u / depth, v / depth) == pytest.approx(expected)
