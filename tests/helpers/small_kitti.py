"""Small drives in KITTI Raw's layout, written for tests: plain images and flat walls."""

from pathlib import Path

import numpy as np
from PIL import Image

DATE, HEIGHT, WIDTH = "2000_01_01", 20, 60
CAM_TO_CAM = """S_rect_02: 60 20
S_rect_03: 60 20
R_rect_00: 1 0 0 0 1 0 0 0 1
P_rect_02: 40 0 29.5 0 0 40 9.5 0 0 0 1 0
P_rect_03: 40 0 29.5 -20 0 40 9.5 0 0 0 1 0
"""
VELO_TO_CAM = "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n"
DRIVE = f"{DATE}_drive_0001"


def color(drive, camera, frame):
    """A color that tells which image was read."""
    return drive, 10 * camera, 20 * frame


def write_frame(
    root: Path, drive: int, frame: int, cameras=(2, 3), scan=True, meters=None, pixels=None
) -> None:
    """Write plain images, and a scan of a wall at 10 + frame meters that fills them.

    `meters` is another distance, and `pixels`, [HEIGHT, WIDTH, 3] uint8, another image.
    """
    folder = root / DATE / f"{DATE}_drive_{drive:04d}_sync"
    for camera in cameras:
        path = folder / f"image_{camera:02d}" / "data" / f"{frame:010d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = Image.new("RGB", (WIDTH, HEIGHT), color(drive, camera, frame))
        (plain if pixels is None else Image.fromarray(pixels)).save(path)
    if scan:
        path = folder / "velodyne_points" / "data" / f"{frame:010d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(frame)
        points = np.full((4000, 4), 10.0 + frame if meters is None else meters, np.float32)
        points[:, 1:3] = generator.uniform((-12, -4), (12, 4), (4000, 2))
        points.tofile(path)


def scan_path(root, frame, drive=1, date=DATE):
    return root / date / f"{date}_drive_{drive:04d}_sync/velodyne_points/data/{frame:010d}.bin"


def image_path(root, frame, drive=1, camera=2, date=DATE):
    return root / date / f"{date}_drive_{drive:04d}_sync/image_0{camera}/data/{frame:010d}.png"


def write_root(root: Path) -> Path:
    """Drive 1: frames 0, 2, 3 of both cameras. Drive 2: frame 1 of the left camera alone."""
    for frame in (0, 2, 3):
        write_frame(root, 1, frame)
    write_frame(root, 2, 1, cameras=(2,))
    write_calibration(root)
    return root


def write_calibration(root: Path) -> None:
    """Write the date's calibration files."""
    (root / DATE / "calib_cam_to_cam.txt").write_text(CAM_TO_CAM)
    (root / DATE / "calib_velo_to_cam.txt").write_text(VELO_TO_CAM)


def write_textured(
    root: Path, date=DATE, drive=1, frames=range(5), cameras=(2, 3), size=(HEIGHT, WIDTH)
) -> Path:
    """Write images of noise, scans of scattered points 2 to 90 m ahead, and the calibration.

    The principal point is in the middle, so that mirroring y mirrors the image of camera 2.
    """
    height, width = size
    folder = root / date / f"{date}_drive_{drive:04d}_sync"
    for sensor in (*(f"image_{camera:02d}" for camera in cameras), "velodyne_points"):
        (folder / sensor / "data").mkdir(parents=True)
    for frame in frames:
        generator = np.random.default_rng((drive, frame, height))
        for camera in cameras:
            pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(image_path(root, frame, drive, camera, date))
        x = generator.uniform(2, 90, 900)
        y, z = generator.uniform(-1.2, 1.2, (2, 900)) * x * ((width / 80,), (height / 80,))
        points = np.stack([x, y, z, np.ones(900)], axis=1).astype(np.float32)
        points.tofile(scan_path(root, frame, drive, date))
    center = f"{(width - 1) / 2} 0 0 40 {(height - 1) / 2} 0 0 0 1 0"
    (root / date / "calib_cam_to_cam.txt").write_text(
        f"S_rect_02: {width} {height}\nS_rect_03: {width} {height}\nR_rect_00: 1 0 0 0 1 0 0 0 1\n"
        f"P_rect_02: 40 0 {center}\nP_rect_03: 40 0 {center.replace(' 0 0 40', ' -20 0 40')}\n"
    )
    (root / date / "calib_velo_to_cam.txt").write_text(VELO_TO_CAM)
    return root
