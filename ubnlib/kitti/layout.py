"""The folder layout of KITTI Raw: which drives and frames there are, by name.

`root/DATE/DATE_drive_NNNN_sync/image_02/data/FFFFFFFFFF.png`, scans beside it in
`velodyne_points/data/FFFFFFFFFF.bin`, calibration files in `root/DATE`. An image and its scan are
paired by file name, never by position: some drives lack scans, some lack a camera.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class FrameKey(NamedTuple):
    """Name of one image and its scan: the labels that KITTI's folders and files carry."""

    date: str
    """The recording date, such as `"2011_09_26"`."""
    drive: str
    """The drive's four digits; they name a drive only together with the date."""
    camera: int
    """2 (left) or 3 (right) for the color cameras, 0 or 1 for the grayscale ones."""
    frame: int
    """The number that is the file's name; numbers can be missing from a sequence."""

    @property
    def drive_name(self) -> str:
        """The drive's name across dates, such as `"2011_09_26_drive_0001"`."""
        return f"{self.date}_drive_{self.drive}"

    def image_path(self, root: Path) -> Path:
        """Return the image's path below a KITTI Raw folder."""
        folder = root / self.date / f"{self.drive_name}_sync" / f"image_{self.camera:02d}"
        return folder / "data" / f"{self.frame:010d}.png"

    def scan_path(self, root: Path) -> Path:
        """Return the velodyne scan's path below a KITTI Raw folder."""
        folder = root / self.date / f"{self.drive_name}_sync" / "velodyne_points"
        return folder / "data" / f"{self.frame:010d}.bin"


def find_drives(root: Path) -> dict[str, Path]:
    """Return the synchronized drives below a KITTI Raw folder: path by name, sorted.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no drive.
    """
    layout = "DATE/DATE_drive_NNNN_sync folders as in KITTI Raw"
    if not root.is_dir():
        raise FileNotFoundError(f"Folder {root} is missing: expected {layout} in it.")
    pattern = re.compile(r"(\d{4}_\d\d_\d\d)/\1_drive_\d{4}_sync")
    folders = (path for path in sorted(root.glob("*/*_sync")) if path.is_dir())
    drives = {
        path.name.removesuffix("_sync"): path
        for path in folders
        if pattern.fullmatch(path.relative_to(root).as_posix())
    }
    if not drives:
        raise ValueError(f"Folder {root} holds no drive: expected {layout} in it.")
    return drives


def pair_frames(
    folder: Path, cameras: Sequence[int]
) -> tuple[list[FrameKey], list[tuple[Path, str]]]:
    """Pair a drive's images with its scans by file name.

    Args:
        folder: The drive's folder, `DATE_drive_NNNN_sync`.
        cameras: Cameras to look for; a missing camera folder is passed over.

    Returns:
        The complete frames, and (path, reason) for every image or scan without its partner.

    Raises:
        ValueError: If the drive has no image of any of these cameras.
    """
    date, drive = folder.name[:10], folder.name[-9:-5]
    scans = _frames(folder / "velodyne_points", ".bin")
    images = {camera: _frames(folder / f"image_{camera:02d}", ".png") for camera in cameras}
    if not any(images.values()):
        wanted = " or ".join(f"image_{camera:02d}" for camera in cameras)
        raise ValueError(
            f"Drive {folder} holds no images: expected data/0000000000.png and so on in {wanted}; "
            f"extract it again, or choose others with `drives`."
        )
    keys, left_out = [], []
    for camera, frames in images.items():
        every = [FrameKey(date, drive, camera, frame) for frame in sorted(frames | scans)]
        for key in every if frames else ():
            if key.frame not in scans:
                left_out.append((key.image_path(folder.parents[1]), "images without a scan"))
            elif key.frame not in frames:
                reason = f"scans without an image of camera {camera}"
                left_out.append((key.scan_path(folder.parents[1]), reason))
            else:
                keys.append(key)
    return keys, left_out


def _frames(sensor_folder: Path, suffix: str) -> set[int]:
    """Return the frame numbers of a sensor's files; none if it has no folder."""
    name = re.compile(r"\d{10}" + re.escape(suffix))
    names = (path.name for path in (sensor_folder / "data").glob(f"*{suffix}"))
    return {int(found[:10]) for found in names if name.fullmatch(found)}
