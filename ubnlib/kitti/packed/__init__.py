"""The packed training set: made once from KITTI Raw's files, then read at the speed of memory."""

from ubnlib.kitti.packed.augment import Augmentation
from ubnlib.kitti.packed.dataset import PackedBatch, PackedDepth
from ubnlib.kitti.packed.loader import LabeledUnlabeledLoader
from ubnlib.kitti.packed.preparation import Preparation
from ubnlib.kitti.packed.prepare import prepare

__all__ = [
    "Augmentation",
    "LabeledUnlabeledLoader",
    "PackedBatch",
    "PackedDepth",
    "Preparation",
    "prepare",
]
