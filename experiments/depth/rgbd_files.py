"""The files of a recorded RGB-D sequence: which belong together, and what one frame holds."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ubnlib.kitti.raw import FrameKey, read_png
from ubnlib.kitti.splits import LAST_FRAME
from ubnlib.losses import downscale_depth

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LAYOUT = "image/NAME.jpg or .png, and depth/NAME.png of the same names"
SATURATED = 65535
"""No measurement either: it says that a distance does not fit into 16 bits."""

_DATE = "0000_00_00"  # records write keys in KITTI's form; no drive of KITTI is of this day


def find_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return a folder's files and those of its subfolders: path by name without suffix.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If two files differ only in their suffix.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"Folder {folder} is missing: expected {LAYOUT}.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            other = found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
            if other != path:
                raise ValueError(
                    f"Files {other} and {path.name} have the same name: expected one of them; "
                    f"remove the other."
                )
    return found


def frame_keys(names: list[str]) -> dict[FrameKey, str]:
    """Give each frame its key: subfolders are drives, and the last number in a name is the frame.

    Args:
        names: Names of frames, with their subfolder and without suffix.

    Returns:
        Names by key, sorted by key. Drives count from 0000 in the order of the subfolders' names.

    Raises:
        ValueError: If a name has no number or too large a one, two have the same, or the names of
            a subfolder differ in more than their number, so that it may not be their time.

    Example:
        >>> for key, name in frame_keys(["kitchen/frame-07", "kitchen/frame-08"]).items():
        ...     print(key.drive, key.frame, name)
        0000 7 kitchen/frame-07
        0000 8 kitchen/frame-08
    """
    folders = sorted({name.rpartition("/")[0] for name in names})
    drives = {folder: f"{number:04d}" for number, folder in enumerate(folders)}
    keys: dict[FrameKey, str] = {}
    firsts: dict[str, tuple[str, str]] = {}
    for name in names:
        folder, _, stem = name.rpartition("/")
        match = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", stem)
        if not match or int(match[2]) > LAST_FRAME:
            raise ValueError(
                f"Frame {name} has no number from 0 to {LAST_FRAME} in its name: expected names "
                f"that give each frame's place in time, such as 000123; rename the files."
            )
        first, rest = firsts.setdefault(folder, (name, (match[1], match[3])))
        if (match[1], match[3]) != rest:
            raise ValueError(
                f"Frames {first} and {name} differ in more than their last number: expected one "
                f"sequence; rename the files, or give each sequence a subfolder."
            )
        key = FrameKey(_DATE, drives[folder], 0, int(match[2]))
        other = keys.setdefault(key, name)
        if other != name:
            raise ValueError(
                f"Frames {other} and {name} have the same number: expected each once; rename one."
            )
    return dict(sorted(keys.items()))


def read_frame(
    image_path: Path, depth_path: Path, size: tuple[int, int], depth_scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Read an image and its depth map and bring both to one size.

    Args:
        image_path: An 8-bit JPEG or PNG.
        depth_path: A 16-bit grayscale PNG; 0 and `SATURATED` are no measurement.
        size: (height, width), at most the depth map's own.
        depth_scale: Units of the depth map in a meter.

    Returns:
        The image, uint8 [3, height, width], resized bilinearly with antialiasing, and the nearest
        surface measured in each cell, float32 [height, width], meters, 0 = no measurement. A pixel
        that lies in two cells counts in both.

    Raises:
        FileNotFoundError: If a file has gone since the folder was listed.
        ValueError: If a file is broken or of another kind, the two differ in aspect ratio by more
            than a pixel, or the depth map is smaller than `size`.
    """
    image, depth = _read_image(image_path), _read_depth(depth_path)
    height, width = depth.shape
    if abs(image.width * height - width * image.height) > max(height, image.height):
        raise ValueError(
            f"Image {image_path} is {image.width}x{image.height} pixels and its depth map "
            f"{width}x{height}: expected one aspect ratio; crop both to the same view."
        )
    if size[0] > height or size[1] > width:
        raise ValueError(
            f"Depth map {depth_path} is {height}x{width} (height x width): expected at least the "
            f"size {size[0]}x{size[1]}; choose a smaller size."
        )
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    resized = F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
    depth[depth == SATURATED] = 0
    nearest = downscale_depth(torch.from_numpy(depth.astype(np.float32))[None], size)[0]
    return resized.contiguous().numpy(), nearest.numpy() / np.float32(depth_scale)


def _read_image(path: Path) -> Image.Image:
    expected = "a whole 8-bit JPEG or PNG, as its suffix says"
    if path.suffix.lower() == ".png":
        image = read_png(path, "Image", expected)
    else:
        try:
            with Image.open(path, formats=["JPEG"]) as image:
                image.load()
        except FileNotFoundError:
            raise FileNotFoundError(f"Image {path} is missing: copy it again.") from None
        # What Pillow raises for broken files.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"Image {path} cannot be read ({error}): expected {expected}; copy it again."
            ) from error
    if image.mode.startswith(("I", "F")):  # a conversion would clip it to white
        raise ValueError(f"Image {path} is of Pillow's mode {image.mode}: expected {expected}.")
    return image


def _read_depth(path: Path) -> np.ndarray:
    expected = "a whole 16-bit grayscale PNG"
    image = read_png(path, "Depth map", expected)
    if image.mode != "I;16":
        raise ValueError(f"Depth map {path} is of Pillow's mode {image.mode}: expected {expected}.")
    return np.array(image)
