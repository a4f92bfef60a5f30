"""KITTI Raw as a dataset: color images, and the velodyne scans projected into them.

Files lie as KITTI has them: `root/DATE/DATE_drive_NNNN_sync/image_02/data/FFFFFFFFFF.png`, scans
in `velodyne_points/data/FFFFFFFFFF.bin` of the same drive, calibration files in `root/DATE`. Images
can also be JPEG files. An image and its scan are paired by file name, never by position: some
drives lack scans or a camera.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from ubnlib.kitti.calibration import Calibration
from ubnlib.kitti.projection import project_velodyne, read_velodyne, scale_projection

IMAGES = (".jpeg", ".jpg", ".png")  # where there are two of a frame, PNG, which loses nothing


class FrameKey(NamedTuple):
    """Name of one image and its scan: the labels that KITTI's folders and files carry."""

    date: str  # of the recording, such as "2011_09_26"
    drive: str  # four digits; they name a drive only together with the date
    camera: int  # 2 (left) or 3 (right) for the color cameras, 0 or 1 for the grayscale ones
    frame: int  # the number in the file's name; numbers can be missing from a sequence

    @property
    def drive_name(self) -> str:
        """The drive's name across dates, such as `"2011_09_26_drive_0001"`."""
        return f"{self.date}_drive_{self.drive}"


def find_drives(root: Path) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
    """Return KITTI Raw's drives: path by name, sorted, and (path, reason) of what is left out."""
    layout = "DATE/DATE_drive_NNNN_sync folders as in KITTI Raw"
    try:
        dates = [root / name for name in os.listdir(root) if re.fullmatch(r"\d{4}_\d\d_\d\d", name)]
        paths = [folder / name for folder in (root, *dates) for name in os.listdir(folder)]
        paths = [p for p in paths if re.fullmatch(r".+_drive_.+_sync", p.name) and p.is_dir()]
    except OSError as error:  # a glob would pass over what may not be read without a word
        found = f"Folder {error.filename} cannot be read ({error.strerror})"
        raise type(error)(f"{found}: expected {layout} that may be read.") from error
    pattern = r"(\d{4}_\d\d_\d\d)/\1_drive_\d{4}_sync"
    drives = [path for path in paths if re.fullmatch(pattern, path.relative_to(root).as_posix())]
    if not drives:
        raise ValueError(f"Folder {root} holds no drive: expected {layout} in it.")
    misplaced = [(path, "misplaced or misnamed drives") for path in paths if path not in drives]
    return {path.name.removesuffix("_sync"): path for path in sorted(drives)}, sorted(misplaced)


def pair_frames(
    folder: Path, cameras: Sequence[int]
) -> tuple[dict[FrameKey, tuple[Path, Path]], list[tuple[Path, str]]]:
    """Return image and scan of a drive's complete frames, and (path, reason) for what is left out.

    That is each file without its partner, and each camera without an image.
    """
    date, drive = folder.name[:10], folder.name[-9:-5]
    scans = _files(folder / "velodyne_points", (".bin",))
    pairs, left_out = {}, []
    for camera in cameras:
        images = _files(folder / f"image_{camera:02d}", IMAGES)
        if not images:
            left_out.append((folder / f"image_{camera:02d}", "cameras without a PNG or JPEG"))
        for frame in sorted(images | scans) if images else ():
            if frame not in scans:
                left_out.append((images[frame], "images without a scan"))
            elif frame not in images:
                left_out.append((scans[frame], f"scans without an image of camera {camera}"))
            else:
                pairs[FrameKey(date, drive, camera, frame)] = images[frame], scans[frame]
    return pairs, left_out


def _files(sensor_folder: Path, suffixes: tuple[str, ...]) -> dict[int, Path]:
    """Return a sensor's files by frame number, of the last suffix that there is of a frame."""
    data = sensor_folder / "data"
    names = os.listdir(data) if data.is_dir() else ()  # a hundred thousand: paths would take long
    named = [match for name in names if (match := re.fullmatch(r"(\d{10})(\.\w+)", name))]
    return {int(m[1]): data / m[0] for suffix in suffixes for m in named if m[2] == suffix}


class FrameDataset(Dataset):
    """What `KittiRaw` and `PackedDepth` share: items by position, and positions by key."""

    def __init__(self, keys: Iterable[FrameKey]):
        self.keys = list(keys)
        self.drives = sorted({key.drive_name for key in self.keys})
        self._index = {key: index for index, key in enumerate(self.keys)}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | FrameKey]:
        return dict(image=self.image(index), depth=self.depth(index), key=self.keys[index])

    def index(self, key: FrameKey) -> int:
        """Return the position of a frame; a KeyError says that it is not in this dataset."""
        return self._index[key]


class KittiRaw(FrameDataset):
    """Map-style dataset over every frame that has both an image and a velodyne scan.

    An item is `dict(image=uint8 [3, H, W], depth=float32 [H, W] in meters with 0 = no return,
    key=FrameKey)`; `image(i)` and `depth(i)` read one of the two.

    Args:
        root: The folder that holds the date folders.
        cameras: Cameras to use. A drive without the folder of one of them offers the others.
        size: (height, width) to bring images and depth maps to; None for each date's native size.
            Images are resized with antialiasing; scans are projected straight at this size.
        drives: Names of the drives to use, such as `"2011_09_26_drive_0001"`; None for all.
        keys: The frames to use, such as those of `load_split`; None for all.

    Attributes:
        keys: The frames, sorted; `keys[i]` names item i, and `drives`, sorted, their drives.
        left_out: (path, reason) for each image without its scan or calibration, each scan without
            its image, each camera without images, and each drive out of place.

    Raises:
        FileNotFoundError: If the root, or the calibration of all frames or of one of `keys`, is
            missing.
        PermissionError: If the root, or the folder of a date, may not be read.
        ValueError: If `size` is no size, such a calibration is malformed, a drive or frame asked
            for is not there or not complete, or there is none at all.
    """

    def __init__(
        self,
        root: Path | str,
        cameras: Sequence[int] = (2, 3),
        size: tuple[int, int] | None = None,
        drives: Iterable[str] | None = None,
        keys: Iterable[FrameKey] | None = None,
    ):
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size is {size}, expected (height, width) in pixels or None.")
        self.root, self.cameras, self.size = Path(root), tuple(cameras), size
        folders, misplaced = find_drives(self.root)
        chosen = list(folders) if drives is None else sorted(set(drives))
        if unknown := [name for name in chosen if name not in folders]:
            missing = f"Drive {', '.join(unknown)} is not below {self.root}"
            raise ValueError(f"{missing}: expected names among {', '.join(folders)}.")
        paired = [pair_frames(folders[name], self.cameras) for name in chosen]
        self._files = {key: files for pairs, _ in paired for key, files in pairs.items()}
        self.left_out = misplaced + [entry for _, left_out in paired for entry in left_out]
        asked = set(self._files if keys is None else keys)
        if missing := sorted(asked.difference(self._files)):
            found = f"{len(missing)} of the {len(asked)} frames asked for are not complete below"
            advice = "choose among those that are there (see `select`), or download the rest"
            raise ValueError(f"{found} {self.root}, the first {tuple(missing[0])}: {advice}.")
        self._shapes, self._projections = {}, {}
        for date, camera in sorted({(key.date, key.camera) for key in asked}):
            try:
                calibration = Calibration.load(self.root / date)
                native = self._shapes[date, camera] = calibration.image_size(camera)
                full = calibration.projection(camera)
                self._projections[date, camera] = scale_projection(full, native, size or native)
            except (FileNotFoundError, ValueError) as error:
                without = sorted(key for key in asked if (key.date, key.camera) == (date, camera))
                asked.difference_update(without)
                if keys is not None or not asked:
                    raise
                self.left_out += [(self._files[key][0], str(error)) for key in without]
        super().__init__(sorted(asked))
        if not self.keys:
            found = f"No frame below {self.root} has both an image and a scan ({self.report()})"
            raise ValueError(f"{found}: expected pairs of the same file name; extract them again.")

    def files(self, key: FrameKey) -> tuple[Path, Path]:
        """Return the paths of a frame's image and scan."""
        return self._files[key]

    def projection(self, index: int) -> np.ndarray:
        """Return a frame's projection, [3, 4] float64: velodyne meters to its pixels, at `size`."""
        key = self.keys[index]
        return self._projections[key.date, key.camera]

    def image(self, index: int) -> torch.Tensor:
        """Read an image: uint8 [3, H, W]; ValueError if it is broken or not of the native size."""
        key = self.keys[index]
        path, native = self.files(key)[0], self._shapes[key.date, key.camera]
        image = read_image(path)
        if tuple(image.shape[1:]) != native:
            found = f"Image {path} is {image.shape[2]}x{image.shape[1]} pixels: expected the"
            asked = f"{native[1]}x{native[0]} of S_rect_{key.camera:02d}"
            raise ValueError(f"{found} {asked} in the date's calibration.")
        if self.size is not None:
            image = F.interpolate(image[None], self.size, mode="bilinear", antialias=True)[0]
        return image.contiguous()

    def depth(self, index: int) -> torch.Tensor:
        """Project a frame's scan: float32 [H, W] in meters, 0 = no return.

        A ValueError says that the scan is malformed, or that none of its points lies in the image.
        """
        key = self.keys[index]
        path, shape = self.files(key)[1], self.size or self._shapes[key.date, key.camera]
        depth = project_velodyne(read_velodyne(path), self.projection(index), shape)
        if not depth.any():
            found = f"Velodyne scan {path} has no point in the image of camera {key.camera}"
            raise ValueError(f"{found}: check the scan and the calibration of {key.date}.")
        return torch.from_numpy(depth)

    def report(self) -> str:
        """Say in one line what was found and what was left out, and why."""
        left_out = f"left out: {len(self.left_out)}"
        found = f"frames: {len(self)}, drives: {len(self.drives)}, {left_out}"
        if not self.left_out:
            return found
        reasons = Counter(reason for _, reason in self.left_out)
        listed = ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))
        return f"{found} ({listed}; the first: {self.left_out[0][0]})"


def read_image(path: Path) -> torch.Tensor:
    """Read a PNG or JPEG as uint8 [3, height, width], upright, gray repeated over the channels."""
    image = read_png(path, "Image", "a whole PNG or JPEG", ("PNG", "JPEG"))
    if image.mode.startswith("I"):  # 16 bits, which `convert` would cut at 255: the upper 8 of them
        return torch.from_numpy((np.asarray(image) >> 8).astype(np.uint8)).repeat(3, 1, 1)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def read_png(path: Path, what: str, expected: str, formats: Sequence[str] = ("PNG",)) -> Any:
    """Read a Pillow image, upright, checksums checked: decoding takes some damage for whole."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        missing = "KITTI's images are decoded by Pillow, which is not installed"
        raise ImportError(f"{missing}: pip install ubnlib[kitti].") from None
    try:
        content = BytesIO(path.read_bytes())
        with Image.open(content, formats=formats) as image:
            image.verify()
        image = Image.open(content, formats=formats)
        image.load()
        return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} {path} is missing: extract it again.") from None
    except Exception as error:  # broken files, EXIF too, make Pillow raise almost anything
        broken = f"{what} {path} cannot be read ({error})"
        raise ValueError(f"{broken}: expected {expected}; extract it again.") from error
