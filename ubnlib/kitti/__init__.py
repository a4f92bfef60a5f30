"""KITTI Raw: calibration, lidar projection, and the drives as a dataset."""

from ubnlib.kitti.calibration import Calibration
from ubnlib.kitti.frames import Frames, keep_every, load_frames, split_by_drive
from ubnlib.kitti.layout import FrameKey
from ubnlib.kitti.projection import project_velodyne, read_velodyne, scale_projection
from ubnlib.kitti.raw import KittiRaw

__all__ = [
    "Calibration",
    "FrameKey",
    "Frames",
    "KittiRaw",
    "keep_every",
    "load_frames",
    "project_velodyne",
    "read_velodyne",
    "scale_projection",
    "split_by_drive",
]
