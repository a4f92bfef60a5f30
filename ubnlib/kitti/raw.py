"""KITTI Raw as a dataset: color images and the velodyne scans projected into them.

Everything is read from KITTI's own files in KITTI's own layout (see `layout`); drives in that
layout from other sources, such as synthetic ones, read the same.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from ubnlib.kitti.calibration import Calibration
from ubnlib.kitti.layout import FrameKey, find_drives, pair_frames
from ubnlib.kitti.png import read_png
from ubnlib.kitti.projection import (
    Convention,
    project_velodyne,
    read_velodyne,
    scale_projection,
)


class KittiRaw(Dataset):
    """Map-style dataset over every frame that has both an image and a velodyne scan.

    An item is `dict(image=uint8 [3, H, W], depth=float32 [H, W] in meters with 0 = no return,
    key=FrameKey)`. `image(i)` and `depth(i)` read one of the two, so that an unlabeled frame never
    touches its scan.

    Args:
        root: The folder that holds the date folders.
        cameras: Cameras to use. A drive without the folder of one of them offers the others.
        size: (height, width) to bring images and depth maps to; None for each date's native size.
            Images are resized with antialiasing; scans are projected straight at this size.
        drives: Names of the drives to use, such as `"2011_09_26_drive_0001"`; None for all.
        keys: The frames to use, such as those of `load_split`; None for all of these drives and
            cameras.
        convention: How points fall into pixels; see `project_velodyne`.

    Attributes:
        keys: The frames, sorted; `keys[i]` names item i.
        drives: Sorted names of the drives that these frames come from.
        left_out: (path, reason) for each image without its scan and each scan without its image.

    Raises:
        FileNotFoundError: If the root or a calibration file is missing.
        ValueError: If `size` is no size, the root holds no drives, a drive asked for does not
            exist, a drive holds no image of the cameras, no frame is complete, one asked for is
            not, or a calibration is malformed.

    Example:
        >>> frames = KittiRaw("kitti_raw", cameras=(2,), size=(256, 832))  # doctest: +SKIP
        >>> frames[0]["image"].shape, frames[0]["depth"].shape  # doctest: +SKIP
        (torch.Size([3, 256, 832]), torch.Size([256, 832]))
    """

    def __init__(
        self,
        root: Path | str,
        cameras: Sequence[int] = (2, 3),
        size: tuple[int, int] | None = None,
        drives: Iterable[str] | None = None,
        keys: Iterable[FrameKey] | None = None,
        convention: Convention = "zero_based",
    ):
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size is {size}, expected (height, width) in pixels or None.")
        self.root, self.cameras, self.size = Path(root), tuple(cameras), size
        self.convention = convention
        folders = find_drives(self.root)
        chosen = list(folders) if drives is None else sorted(set(drives))
        if unknown := [name for name in chosen if name not in folders]:
            raise ValueError(
                f"Drive {', '.join(unknown)} is not below {self.root}: expected names among "
                f"{', '.join(folders)}."
            )
        complete: list[FrameKey] = []
        self.left_out: list[tuple[Path, str]] = []
        for name in chosen:
            paired, left_out = pair_frames(folders[name], self.cameras)
            complete += paired
            self.left_out += left_out
        self.keys = sorted(complete if keys is None else self._among(complete, keys))
        if not self.keys:
            raise ValueError(
                f"No frame below {self.root} has both an image and a scan ({self.report()}): "
                f"expected pairs of the same file name; extract the drives again."
            )
        self.drives = sorted({key.drive_name for key in self.keys})
        self._index = {key: index for index, key in enumerate(self.keys)}
        self._shapes: dict[tuple[str, int], tuple[int, int]] = {}
        self._projections: dict[tuple[str, int], np.ndarray] = {}
        for date, camera in sorted({(key.date, key.camera) for key in self.keys}):
            calibration = Calibration.load(self.root / date)
            native = calibration.image_size(camera)
            projection = scale_projection(calibration.projection(camera), native, size or native)
            self._shapes[date, camera] = native
            self._projections[date, camera] = projection

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | FrameKey]:
        return dict(image=self.image(index), depth=self.depth(index), key=self.keys[index])

    def _among(self, complete: list[FrameKey], keys: Iterable[FrameKey]) -> set[FrameKey]:
        """Return the frames asked for, all of which must be complete."""
        asked = set(keys)
        if missing := sorted(asked - set(complete)):
            raise ValueError(
                f"{len(missing)} of the {len(asked)} frames asked for are not complete below "
                f"{self.root}, the first {tuple(missing[0])}: choose among those that are there "
                f"(see `select`), or download the rest."
            )
        return asked

    def index(self, key: FrameKey) -> int:
        """Return the position of a frame.

        Raises:
            KeyError: If the frame is not in this dataset.
        """
        return self._index[key]

    def projection(self, index: int) -> np.ndarray:
        """Return a frame's projection, [3, 4] float64: velodyne meters to its pixels, at `size`.

        Calibration differs from date to date; an average over dates fits none of them.
        """
        key = self.keys[index]
        return self._projections[key.date, key.camera]

    def image(self, index: int) -> torch.Tensor:
        """Read an image: uint8 [3, H, W].

        Raises:
            FileNotFoundError: If the file has gone since the folder was listed.
            ValueError: If the file cannot be decoded, or its size is not the calibration's.
        """
        key = self.keys[index]
        path = key.image_path(self.root)
        image = read_image(path)
        native = self._shapes[key.date, key.camera]
        if tuple(image.shape[1:]) != native:
            raise ValueError(
                f"Image {path} is {image.shape[2]}x{image.shape[1]} pixels: expected the "
                f"{native[1]}x{native[0]} of S_rect_{key.camera:02d} in the date's calibration."
            )
        if self.size is not None:
            image = F.interpolate(image[None], self.size, mode="bilinear", antialias=True)[0]
        return image.contiguous()

    def depth(self, index: int) -> torch.Tensor:
        """Project a frame's scan: float32 [H, W] in meters, 0 = no return.

        Raises:
            FileNotFoundError: If the scan has gone since the folder was listed.
            ValueError: If the scan is malformed, or none of its points lies in the image.
        """
        key = self.keys[index]
        path = key.scan_path(self.root)
        shape = self.size or self._shapes[key.date, key.camera]
        points = read_velodyne(path)
        depth = project_velodyne(points, self.projection(index), shape, convention=self.convention)
        if not depth.any():
            raise ValueError(
                f"Velodyne scan {path} has no point in the image of camera {key.camera}: expected "
                f"thousands; check the scan and the calibration of {key.date}."
            )
        return torch.from_numpy(depth)

    def report(self) -> str:
        """Say in one line what was found and what was left out, and why."""
        drives = len({key.drive_name for key in self.keys})
        found = f"frames: {len(self.keys)}, drives: {drives}, left out: {len(self.left_out)}"
        if not self.left_out:
            return found
        reasons = Counter(reason for _, reason in self.left_out)
        counts = ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))
        return f"{found} ({counts}; the first: {self.left_out[0][0]})"


def read_image(path: Path) -> torch.Tensor:
    """Read a PNG as uint8 [3, height, width], grayscale repeated over the three channels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, damaged or no PNG.
    """
    pixels = np.array(read_png(path, "Image", "a whole PNG").convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)
