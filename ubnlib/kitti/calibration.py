"""KITTI Raw calibration files: from velodyne meters to image pixels.

Facts from the KITTI Raw development kit and A. Geiger et al., "Vision meets Robotics: The KITTI
Dataset" (IJRR 2013): one set of files per recording date, `key: values` lines, and
`pixel ~ P_rect_0c . R_rect_00 . [R|T] . point` for every camera `c` of the rectified images.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np


def parse_calibration(text: str) -> dict[str, str]:
    """Split `key: values` lines; values stay text, as some are no numbers (`calib_time`)."""
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
            advice = "extract the date's `*_calib.zip` of KITTI Raw there"
            raise FileNotFoundError(f"Calibration file {path} is missing: {advice}.")
        return cls(path, parse_calibration(path.read_text("utf-8", "replace")))

    def numbers(self, key: str, *shape: int) -> np.ndarray:
        """Return the finite numbers of an entry as float64 of a shape, filled row by row."""
        expected = f"expected {math.prod(shape)} numbers as in KITTI's own file"
        if key not in self.entries:
            raise ValueError(f"Calibration file {self.path} has no key {key}: {expected}.")
        where, text = f"Calibration file {self.path}, key {key}:", self.entries[key]
        try:
            values = np.array([float(word) for word in text.split()])
        except ValueError:
            values = np.array([np.nan])
        if not np.isfinite(values).all():
            raise ValueError(f"{where} {text[:60]!r} holds not only finite numbers, {expected}.")
        if values.size != math.prod(shape):
            raise ValueError(f"{where} has {values.size} values, {expected}.")
        return values.reshape(shape)


@dataclass(frozen=True)
class Calibration:
    """The calibration of one KITTI Raw date: four rectified cameras and the velodyne."""

    cam_to_cam: CalibrationFile
    velo_to_cam: CalibrationFile

    @classmethod
    def load(cls, date_folder: Path | str) -> "Calibration":
        """Read `calib_cam_to_cam.txt` and `calib_velo_to_cam.txt` of a date's folder.

        A missing file is a FileNotFoundError, a malformed `R_rect_00`, `R` or `T` a ValueError.
        """
        cam_to_cam = CalibrationFile.load(Path(date_folder) / "calib_cam_to_cam.txt")
        velo_to_cam = CalibrationFile.load(Path(date_folder) / "calib_velo_to_cam.txt")
        calibration = cls(cam_to_cam, velo_to_cam)
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
        """Return the projection to native pixels of a camera: 0, 1 gray, 2 (left), 3 (right) color.

        It is [3, 4] float64. Its product with `(x, y, z, 1)` in velodyne meters is
        `(u * d, v * d, d)`: column u and row v, 0-based with pixel centers at integers, and depth d
        in meters. A ValueError says that `P_rect_0c` is missing or malformed.
        """
        return self.cam_to_cam.numbers(f"P_rect_{camera:02d}", 3, 4) @ self.velo_to_rectified

    def image_size(self, camera: int) -> tuple[int, int]:
        """Return a camera's rectified (height, width); ValueError if `S_rect_0c` gives none."""
        key = f"S_rect_{camera:02d}"
        size = width, height = self.cam_to_cam.numbers(key, 2).tolist()
        if not all(1 <= side < 2**16 and side % 1 == 0 for side in size):
            where = f"Calibration file {self.cam_to_cam.path}, key {key}"
            raise ValueError(f"{where} is {size}: expected width and height in whole pixels.")
        return int(height), int(width)
