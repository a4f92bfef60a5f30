"""KITTI's improved depth maps: several scans accumulated and checked against stereo.

The data set is that of J. Uhrig et al., "Sparsity Invariant CNNs" (3DV 2017), the archive
`data_depth_annotated.zip` of KITTI's depth benchmark. 652 of the 697 Eigen test images have such a
map. A pixel is 256 times the depth in meters, as a 16-bit integer; 0 = no measurement.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from ubnlib.kitti.layout import FrameKey
from ubnlib.kitti.png import read_png

PARTS = ("train", "val")


class ImprovedGroundTruth:
    """The improved depth maps of KITTI, by frame.

    Args:
        root: The folder with `train` and `val`, of which one may be missing, as the archive has
            them: `train/DATE_drive_NNNN_sync/proj_depth/groundtruth/image_02/FFFFFFFFFF.png`.

    Raises:
        FileNotFoundError: If the root has neither of the two folders.

    Example:
        >>> truth = ImprovedGroundTruth("kitti_depth")  # doctest: +SKIP
        >>> frames = truth.available(frames)  # doctest: +SKIP
        >>> truth.depth(frames[0]).shape  # doctest: +SKIP
        torch.Size([375, 1242])
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        if not any((self.root / part).is_dir() for part in PARTS):
            raise FileNotFoundError(
                f"Folder {self.root} holds neither train nor val: expected "
                f"train/DATE_drive_NNNN_sync and so on; extract data_depth_annotated.zip there."
            )

    def path(self, key: FrameKey) -> Path:
        """Return the path of a frame's depth map, which need not exist.

        A drive lies in one of `train` and `val`; for a drive in neither, the path is in `train`.
        """
        name = f"{key.drive_name}_sync"
        inside = f"proj_depth/groundtruth/image_{key.camera:02d}/{key.frame:010d}.png"
        part = next((part for part in PARTS if (self.root / part / name).is_dir()), PARTS[0])
        return self.root / part / name / inside

    def depth(self, key: FrameKey) -> torch.Tensor:
        """Read a frame's depth map: float32 [H, W] in meters, 0 = no measurement.

        Raises:
            FileNotFoundError: If the frame has no depth map.
            ValueError: If the file is no depth map.
        """
        return torch.from_numpy(read_depth_png(self.path(key)))

    def available(self, keys: Iterable[FrameKey]) -> list[FrameKey]:
        """Return the frames that have a depth map, in the order given."""
        return [key for key in keys if self.path(key).is_file()]


def read_depth_png(path: Path | str) -> np.ndarray:
    """Read a depth map in KITTI's format: a 16-bit grayscale PNG of 256 times the meters.

    Args:
        path: A file of the improved ground truth, or of KITTI's `velodyne_raw`.

    Returns:
        [H, W] float32, meters; 0 = no measurement.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no whole 16-bit grayscale PNG.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Depth map {path} is missing: KITTI has none for a drive's first and last five "
            f"frames and for some drives; ask `available` which frames have one."
        )
    expected = "a whole 16-bit grayscale PNG of KITTI's depth maps"
    image = read_png(path, "Depth map", expected)
    if image.mode != "I;16":
        raise ValueError(
            f"Depth map {path} is of Pillow's mode {image.mode}: expected {expected}; extract it "
            f"again."
        )
    return np.array(image).astype(np.float32) / 256
