"""KITTI Raw: calibration, lidar projection, the drives as datasets, splits and label sets."""

from ubnlib.kitti.calibration import Calibration
from ubnlib.kitti.loader import LabeledUnlabeledLoader
from ubnlib.kitti.packed import PackedBatch, PackedDepth
from ubnlib.kitti.prepare import prepare
from ubnlib.kitti.projection import project_velodyne, read_velodyne, scale_projection
from ubnlib.kitti.raw import FrameKey, KittiRaw
from ubnlib.kitti.splits import keep_every, load_split, select

__all__ = [
    "Calibration",
    "FrameKey",
    "KittiRaw",
    "LabeledUnlabeledLoader",
    "PackedBatch",
    "PackedDepth",
    "keep_every",
    "load_split",
    "prepare",
    "project_velodyne",
    "read_velodyne",
    "scale_projection",
    "select",
]
