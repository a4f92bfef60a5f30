"""Write synthetic drives to disk exactly as KITTI Raw lays out recorded ones."""

import json
import multiprocessing
import os
import shutil
import zlib
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from synthetic_kitti.camera import render
from synthetic_kitti.domain import DRIVE_FILE, Domain
from synthetic_kitti.drive import PERIOD, Drive
from synthetic_kitti.lidar import scan
from synthetic_kitti.rig import Rig

VERSION = 3  # raised whenever the same settings would give other files
DATE = "2000_01_01"
MANIFEST = "synthetic.json"
PNG = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""Fast, and as small as other ways, for images with noise."""


def make_synthetic_kitti(
    root: str | os.PathLike,
    *,
    drives: int = 24,
    frames: int = 16,
    scale: float = 0.25,
    seed: int = 0,
    azimuth_steps: int = 400,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Render street drives into a folder that any reader of KITTI Raw understands.

    Every drive depends on the seed and its own number alone, so the files do not depend on the
    number of workers. The folder appears under its name only when it is complete. A complete
    folder with the same settings is kept as it is, and returned.

    Frames are 0.1 s apart, `scale` is the images' size relative to KITTI's 1242 x 375, and
    `azimuth_steps` are lidar rays per beam and turn, of which a real one has about 2000. Worker
    processes, by default one for each usable core, are spawned, so a script must call this below
    `if __name__ == "__main__":` unless `workers` is 1.
    """
    root = Path(root)
    settings = dict(version=VERSION, drives=drives, frames=frames, scale=scale, seed=seed)
    settings["azimuth_steps"] = azimuth_steps
    _check(settings, workers)
    if _is_complete(root, settings):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.with_name(f"{root.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a dead process that had our number
    try:
        date_folder = partial / DATE
        date_folder.mkdir(parents=True)
        Rig(scale).write(date_folder)
        bar = tqdm(total=drives, desc="rendering", unit="drive", disable=not progress)
        _run(date_folder, settings, workers, bar)
        (partial / MANIFEST).write_text(json.dumps(settings, indent=2) + "\n")
        try:
            partial.rename(root)
        except OSError:
            if not _is_complete(root, settings):  # else another process was faster: the same files
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _check(settings: dict, workers: int | None) -> None:
    limits = {"drives": (1, 9999), "frames": (1, 10**6), "azimuth_steps": (4, 10**5)}
    for name, (low, high) in limits.items():
        if not low <= settings[name] <= high:
            raise ValueError(f"{name} is {settings[name]}; it must be from {low} to {high}.")
    if not 0.02 <= settings["scale"] <= 4:
        raise ValueError(f"scale is {settings['scale']}; it must be from 0.02 to 4.")
    if settings["seed"] < 0:
        raise ValueError(f"seed is {settings['seed']}; it must not be negative.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1.")


def _is_complete(root: Path, settings: dict) -> bool:
    """Return whether `root` holds these very drives; refuse to touch anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError):
        raise FileExistsError(
            f"{root} exists and is no folder of synthetic drives ({MANIFEST} is missing or "
            "unreadable); choose another folder, or remove this one."
        ) from None
    if found != settings:
        theirs = {key: found.get(key) for key in settings if found.get(key) != settings[key]}
        ours = {key: settings[key] for key in theirs}
        raise FileExistsError(
            f"{root} holds synthetic drives made with {theirs}, not {ours}; choose another folder, "
            "or remove this one to make it anew."
        )
    return True


def _run(date_folder: Path, settings: dict, workers: int | None, bar: tqdm) -> None:
    """Write the drives, here or in worker processes, whichever order they end in."""
    from ubnlib.kitti.prepare import usable_cores  # imports torch: not in the workers

    tasks = [(date_folder, number, settings) for number in range(1, settings["drives"] + 1)]
    workers = min(workers or usable_cores(), len(tasks))
    with bar:
        if workers == 1:
            for task in tasks:
                write_drive(*task)
                bar.update()
            return
        # Spawned, not forked: a notebook's process has threads that a fork would copy half-way.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = [pool.submit(write_drive, *task) for task in tasks]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.update()
            except BaseException:
                # Workers finish their drive otherwise; without its folder the next file fails.
                date_folder.rename(date_folder.with_name("stopped"))
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def write_drive(date_folder: Path, number: int, settings: dict) -> None:
    """Render one drive below its date folder: sensors, timestamps, and its domain in drive.json."""
    folder = Path(date_folder) / f"{DATE}_drive_{number:04d}_sync"
    rig, frames = Rig(settings["scale"]), settings["frames"]
    seed = settings["seed"]
    drive = Drive(np.random.default_rng([seed, number]), frames, Domain.nth(seed, number))
    start = datetime(2000, 1, 1, 8) + timedelta(minutes=10 * number)
    stamps = [start + timedelta(seconds=PERIOD * frame) for frame in range(frames)]
    lines = "".join(f"{stamp:%Y-%m-%d %H:%M:%S.%f}000\n" for stamp in stamps)
    folder.mkdir()  # not its parents: it must not revive the folder of a stopped run
    for sensor in ("image_02", "image_03", "velodyne_points"):
        (folder / sensor / "data").mkdir(parents=True)
        (folder / sensor / "timestamps.txt").write_text(lines)
    (folder / DRIVE_FILE).write_text(json.dumps(drive.describe(), indent=2) + "\n")
    for frame in range(frames):
        moment = drive.at(frame)
        rng = np.random.default_rng([seed, number, frame])
        for camera in (2, 3):
            image, _ = render(moment, rig, camera, rng)
            Image.fromarray(image).save(folder / f"image_{camera:02d}/data/{frame:010d}.png", **PNG)
        points = scan(moment, settings["azimuth_steps"], rng)
        points.tofile(folder / f"velodyne_points/data/{frame:010d}.bin")
