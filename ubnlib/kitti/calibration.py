"""KITTI Raw calibration files: from velodyne meters to image pixels.

Facts from the KITTI Raw development kit and from A. Geiger et al., "Vision meets Robotics: The
KITTI Dataset" (IJRR 2013): one set of files per recording date, `key: values` lines, and
`pixel ~ P_rect_0c . R_rect_00 . [R|T] . point` for every camera `c` of the rectified images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


def parse_calibration(text: str) -> dict[str, str]:
    """Split `key: values` lines; values stay text, as some are none: `calib_time: 09-Jan-2012`."""
    entries = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in entries if colon}


@dataclass(frozen=True)
class CalibrationFile:
    """One calibration file: its path, for messages, and its entries as text."""

    path: Path
    entries: dict[str, str]

    @classmethod
    def load(cls, path: Path | str) -> "CalibrationFile":
        """Read a calibration file."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"Calibration file {path} is missing: extract the date's `*_calib.zip` of KITTI "
                f"Raw so that the file lies there."
            )
        return cls(path, parse_calibration(path.read_text(encoding="utf-8", errors="replace")))

    def numbers(self, key: str, *shape: int) -> np.ndarray:
        """Return one entry, such as `"P_rect_02"`, as a float64 array of this shape."""
        count = int(np.prod(shape))
        expected = f"expected {count} numbers as in KITTI's own file"
        if key not in self.entries:
            raise ValueError(f"Calibration file {self.path} has no key {key}: {expected}.")
        where = f"Calibration file {self.path}, key {key}"
        try:
            values = np.array([float(word) for word in self.entries[key].split()])
        except ValueError:
            values = np.array([np.nan])
        if not np.isfinite(values).all():
            raise ValueError(
                f"{where}: {self.entries[key][:60]!r} holds something else than finite numbers, "
                f"{expected}."
            )
        if values.size != count:
            raise ValueError(f"{where}: has {values.size} values, {expected}.")
        return values.reshape(shape)


@dataclass(frozen=True)
class Calibration:
    """The calibration of one KITTI Raw date: four rectified cameras and the velodyne."""

    cam_to_cam: CalibrationFile
    velo_to_cam: CalibrationFile

    @classmethod
    def load(cls, date_folder: Path | str) -> "Calibration":
        """Read `calib_cam_to_cam.txt` and `calib_velo_to_cam.txt` of a date's folder.

        A missing file is a FileNotFoundError; a key that is missing or malformed a ValueError.
        """
        folder = Path(date_folder)
        calibration = cls(
            CalibrationFile.load(folder / "calib_cam_to_cam.txt"),
            CalibrationFile.load(folder / "calib_velo_to_cam.txt"),
        )
        _ = calibration.velo_to_rectified  # a broken file speaks up here, not in mid-training
        return calibration

    @property
    def velo_to_rectified(self) -> np.ndarray:
        """[4, 4] float64: velodyne meters to the rectified frame of camera 0, in meters."""
        velo_to_cam, rectify = np.eye(4), np.eye(4)
        velo_to_cam[:3, :3] = self.velo_to_cam.numbers("R", 3, 3)
        velo_to_cam[:3, 3] = self.velo_to_cam.numbers("T", 3)
        rectify[:3, :3] = self.cam_to_cam.numbers("R_rect_00", 3, 3)
        return rectify @ velo_to_cam

    def projection(self, camera: int) -> np.ndarray:
        """Return the projection from velodyne meters to native pixels of a camera.

        Cameras 0 and 1 are KITTI's grayscale ones, 2 (left) and 3 (right) those in color.

        Returns:
            [3, 4] float64. Its product with `(x, y, z, 1)` is `(u * d, v * d, d)`: column u and
            row v, 0-based with pixel centers at integers, and depth d in meters.
        """
        return self.cam_to_cam.numbers(f"P_rect_{camera:02d}", 3, 4) @ self.velo_to_rectified

    def image_size(self, camera: int) -> tuple[int, int]:
        """Return the (height, width) in pixels of a camera's rectified images."""
        size = self.cam_to_cam.numbers(f"S_rect_{camera:02d}", 2)
        if not ((size >= 1) & (size < 2**16) & (size % 1 == 0)).all():
            raise ValueError(
                f"Calibration file {self.cam_to_cam.path}, key S_rect_{camera:02d}: "
                f"{size.tolist()} is no image size, expected width and height in whole pixels."
            )
        width, height = size
        return int(height), int(width)
