"""The recording car: KITTI-like calibration at any scale, written as KITTI writes it, and poses."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

LIDAR_HEIGHT = 1.73  # meters above the ground, as in KITTI's sensor setup
FULL_SIZE = (375, 1242)
FOCAL, CENTER = 721.5377, (609.5593, 172.854)  # KITTI's, rectified, of 2011_09_26; in pixels
CAMERA_X = (0.0, 0.537150, -0.059850, 0.472900)
"""Where cameras 0 to 3 sit along the rectified x axis: gray pair, then color pair; meters."""
VELO_TO_CAM_SHIFT = (-0.004070, -0.076316, -0.271781)


def rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Return Rz(yaw) Ry(pitch) Rx(roll), [3, 3]; radians."""
    (cr, cp, cy), (sr, sp, sy) = np.cos((roll, pitch, yaw)), np.sin((roll, pitch, yaw))
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@dataclass(frozen=True)
class Rig:
    """Sensors of the recording car; camera axes are x right, y down, z forward."""

    scale: float = 1.0  # of the images, relative to KITTI's 1242 x 375

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return tuple(max(1, round(extent * self.scale)) for extent in FULL_SIZE)

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return FOCAL * self.scale

    @property
    def rectify(self) -> np.ndarray:
        """R_rect_00, [3, 3]: a small rotation."""
        return rotation(0.0043, -0.0075, -0.0098)

    @property
    def velo_to_cam(self) -> np.ndarray:
        """Rotation of [R|T] from velodyne axes to those of camera 0, [3, 3]."""
        swap = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], float)
        return rotation(-0.0148, 0.0075, 0.0006) @ swap

    def camera_matrix(self, camera: int) -> np.ndarray:
        """Return P_rect, [3, 4], of camera 0 to 3."""
        # Pixel centers lie at whole numbers, so the image's corner at -0.5 is what scales.
        cx, cy = ((center + 0.5) * self.scale - 0.5 for center in CENTER)
        f = self.focal
        return np.array([[f, 0, cx, -f * CAMERA_X[camera]], [0, f, cy, 0], [0, 0, 1, 0]])

    def rays(self, camera: int, v: np.ndarray, u: np.ndarray):
        """Return where a camera is and where its pixels look, in velodyne axes.

        Rows and columns are of any shape; cameras are 0 to 3. Returns the camera's center [3], unit
        directions [..., 3], and the depth (camera z) that one meter along each gains, [...].
        """
        turn = self.rectify @ self.velo_to_cam
        projection = self.camera_matrix(camera)
        center = np.array([CAMERA_X[camera], 0, 0])
        origin = turn.T @ (center - self.rectify @ np.array(VELO_TO_CAM_SHIFT))
        f, cx, cy = projection[0, 0], projection[0, 2], projection[1, 2]
        pixels = np.stack([(u - cx) / f, (v - cy) / f, np.ones(np.shape(u))], axis=-1)
        length = np.linalg.norm(pixels, axis=-1)
        return origin, (pixels / length[..., None]) @ turn, 1 / length

    def write(self, date_folder: Path) -> None:
        """Write calib_cam_to_cam.txt, calib_velo_to_cam.txt and calib_imu_to_velo.txt."""
        height, width = self.shape
        head = "calib_time: 01-Jan-2000 00:00:00"
        lines = [head, "corner_dist: 9.950000e-02"]
        for camera in range(4):
            matrix = self.camera_matrix(camera)
            shift = -self.rectify.T @ np.array([CAMERA_X[camera], 0, 0])
            lines += [
                _line(f"S_{camera:02d}", (width, height)),
                _line(f"K_{camera:02d}", matrix[:, :3]),
                _line(f"D_{camera:02d}", np.zeros(5)),
                _line(f"R_{camera:02d}", np.eye(3)),
                _line(f"T_{camera:02d}", shift),
                _line(f"S_rect_{camera:02d}", (width, height)),
                _line(f"R_rect_{camera:02d}", self.rectify),
                _line(f"P_rect_{camera:02d}", matrix),
            ]
        (date_folder / "calib_cam_to_cam.txt").write_text("\n".join(lines) + "\n")
        zero = np.zeros(2)
        lines = [head, _line("R", self.velo_to_cam), _line("T", VELO_TO_CAM_SHIFT)]
        lines += [_line("delta_f", zero), _line("delta_c", zero)]
        (date_folder / "calib_velo_to_cam.txt").write_text("\n".join(lines) + "\n")
        lines = [head, _line("R", np.eye(3)), _line("T", (-0.8087, 0.3196, -0.7997))]
        (date_folder / "calib_imu_to_velo.txt").write_text("\n".join(lines) + "\n")


def _line(key: str, values) -> str:
    return f"{key}: " + " ".join(f"{value:.6e}" for value in np.ravel(values))
