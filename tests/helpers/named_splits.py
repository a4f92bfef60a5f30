"""What tests of splits by name ask of them: of the stand-in for the paper's, whole or in part."""

from kitti_drives import EIGEN_TEST_DRIVES
from ubnlib.kitti import load_split

NAMES = load_split("paper_standin_train") + load_split("paper_standin_val")
LOST = "2011_09_26_drive_0001"


def counts(split):
    """Return how many frames are there and are missing, of each side."""
    return [len(keys) for side in split[1:] for keys in (side.present, side.missing)]


def eigen_tests_in(split):
    """Return the drives of Eigen's test split that are trained on."""
    return {key.drive_name for key in split.train.present} & EIGEN_TEST_DRIVES
