"""Calibration: geometry worked out by hand, and a sentence for each kind of broken file."""

import re
from pathlib import Path

import numpy as np
import pytest

from ubnlib.kitti import Calibration
from ubnlib.kitti.calibration import CalibrationFile

# A camera that looks along the velodyne's x, 0.3 m before and 0.1 m below it, without rotation
# except the swap of axes; camera 3 has its center 0.5 m to the right of camera 0's.
CAM_TO_CAM = """no colon here
calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_rect_02: 1.242000e+03 3.750000e+02
S_rect_03: 6.0e+02 2.0e+02
R_rect_00: 1 0 0 0 1 0 0 0 1
P_rect_02: 700 0 600 0 0 710 170 0 0 0 1 0
P_rect_03: 700 0 600 -350 0 710 170 0 0 0 1 0
"""
VELO_TO_CAM = """calib_time: 15-Mar-2012 11:37:16
R: 0 -1 0 0 0 -1 1 0 0
T: 0 -0.1 -0.3
"""


def write(folder: Path, cam_to_cam=CAM_TO_CAM, velo_to_cam=VELO_TO_CAM) -> Path:
    (folder / "calib_cam_to_cam.txt").write_text(cam_to_cam)
    (folder / "calib_velo_to_cam.txt").write_text(velo_to_cam)
    return folder


def pixel(projection, point):
    u, v, depth = projection @ np.array([*point, 1.0])
    return u / depth, v / depth, depth


def test_projection_is_the_pinhole_geometry_worked_out_by_hand(tmp_path):
    calibration = Calibration.load(write(tmp_path))
    # 20.3 m ahead, 2 m to the left, 1.1 m below: camera coordinates (-2, 1, 20).
    left = pixel(calibration.projection(2), (20.3, 2.0, -1.1))
    np.testing.assert_allclose(left, (600 - 70, 170 + 35.5, 20.0), rtol=1e-12)
    # The right camera sees it b * f / depth further to the left.
    right = pixel(calibration.projection(3), (20.3, 2.0, -1.1))
    np.testing.assert_allclose(right, (600 - 70 - 17.5, 170 + 35.5, 20.0), rtol=1e-12)


def test_projection_applies_the_rectifying_rotation(tmp_path):
    # A quarter turn about the optical axis: (x, y) in the camera becomes (-y, x).
    turned = CAM_TO_CAM.replace("R_rect_00: 1 0 0 0 1 0 0 0 1", "R_rect_00: 0 -1 0 1 0 0 0 0 1")
    projection = Calibration.load(write(tmp_path, turned)).projection(2)
    u, v, depth = pixel(projection, (20.3, 2.0, -1.1))
    np.testing.assert_allclose((u, v, depth), (600 - 35, 170 - 71, 20.0), rtol=1e-12)
    assert projection.dtype == np.float64 and projection.shape == (3, 4)


@pytest.mark.parametrize(
    ("line", "broken", "message"),
    [
        ("P_rect_02: 700 0", "Q_rect_02: 700 0", "no key P_rect_02: expected 12 numbers"),
        ("P_rect_02: 700 0", "P_rect_02: 700", "key P_rect_02: has 11 values, expected 12"),
        ("P_rect_02: 700 0", "P_rect_02: 700 O", "key P_rect_02: '700 O 600"),
        ("P_rect_02: 700 0", "P_rect_02: nan 0", "key P_rect_02: .*finite numbers"),
        ("S_rect_02: 1.242000e+03", "S_rect_02:", "key S_rect_02: has 1 values, expected 2"),
    ],
)
def test_malformed_camera_entry_is_named(tmp_path, line, broken, message):
    calibration = Calibration.load(write(tmp_path, CAM_TO_CAM.replace(line, broken)))
    path = re.escape(str(tmp_path / "calib_cam_to_cam.txt"))
    with pytest.raises(ValueError, match=f"{path}.*{message}") as caught:
        calibration.projection(2)
        calibration.image_size(2)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_no_calibration_are_named(tmp_path):
    for name, content, message in (
        ("calib_velo_to_cam.txt", None, r"velo_to_cam\.txt"),
        ("calib_velo_to_cam.txt", b"R: 0 -1 0 0 0 -1 1 0 0", r"velo_to_cam\.txt has no key T"),
        ("calib_cam_to_cam.txt", b"", "has no key R_rect_00: expected 9 numbers"),
        ("calib_cam_to_cam.txt", bytes(range(256)) * 4, "has no key R_rect_00: expected 9 numbers"),
    ):
        path = write(tmp_path) / name
        path.unlink() if content is None else path.write_bytes(content)
        kind = FileNotFoundError if content is None else ValueError
        with pytest.raises(kind, match=f"{re.escape(str(tmp_path))}.*{message}"):
            Calibration.load(tmp_path)


def test_calibrations_of_all_real_dates(kitti_sample):
    # Sizes and focal lengths of the five dates, as known from the dataset's images.
    facts = {
        "2011_09_26": ((375, 1242), 721.54),
        "2011_09_28": ((370, 1224), 707.05),
        "2011_09_29": ((374, 1238), 718.34),
        "2011_09_30": ((370, 1226), 707.09),
        "2011_10_03": ((376, 1241), 718.86),
    }
    velo_to_cam = CalibrationFile.load(kitti_sample / "kitti_raw/2011_09_26/calib_velo_to_cam.txt")
    for date, (size, focal) in facts.items():
        path = kitti_sample / "calib_all_dates" / f"calib_cam_to_cam_{date}.txt"
        calibration = Calibration(CalibrationFile.load(path), velo_to_cam)
        for camera in (2, 3):
            assert calibration.image_size(camera) == size
            # 1 m at 100 m of depth spans focal / 100 pixels, whatever the rotations.
            intrinsic = calibration.projection(camera)[:, :3]
            assert np.linalg.norm(intrinsic[2]) == pytest.approx(1.0, abs=1e-4)
            assert np.linalg.det(intrinsic) == pytest.approx(focal**2, rel=1e-4)
