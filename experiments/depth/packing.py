"""From a folder of KITTI Raw to packed frames: which are of a split, and what packing takes.

A split is named, never guessed. `paper_standin` and `eigen` are lists (see `ubnlib.kitti.splits`),
taken as far as their frames are there; `by_drive` is for any drives, such as synthetic ones.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ubnlib.kitti import FrameKey, KittiRaw, load_split, select
from ubnlib.kitti.prepare import Preparation
from ubnlib.kitti.splits import Selection

NAMED_SPLITS = {  # the lists to train on and to test on; by_drive needs none
    "paper_standin": ("paper_standin_train", "paper_standin_val"),
    "eigen": ("eigen_train", "eigen_test_697"),
    "by_drive": (),
}


class FrameSplit(NamedTuple):
    """The frames to train on and those to test on, and what is missing of either."""

    name: str
    train: Selection
    test: Selection

    def report(self) -> str:
        """Say in lines what is there, and if frames of an Eigen test drive are to train on."""
        tested = {key.drive_name for key in load_split("eigen_test_697")}
        lines = [f"split {self.name}, to train on: {self.train.report()}"]
        lines.append(f"split {self.name}, to test on: {self.test.report()}")
        if shared := tested & {key.drive_name for key in self.train.present}:
            warning = "nothing trained on them may be called an Eigen result"
            lines.append(f"Eigen test drives among those to train on: {len(shared)}; {warning}")
        return "\n".join(lines)


def split_frames(
    available: Sequence[FrameKey], name: str, cameras: Iterable[int] = (2, 3)
) -> FrameSplit:
    """Divide a dataset's frames by the name of a split, so that no street is on both sides.

    The lists of `NAMED_SPLITS` are taken for these cameras, and what is not available is noted;
    `by_drive` is for any drives, and tests on the last quarter of them. A ValueError says that
    there is no such split, or that nothing is there of one side.
    """
    if name not in NAMED_SPLITS:
        raise ValueError(f"There is no split {name!r}: expected one of {', '.join(NAMED_SPLITS)}.")
    lists, cameras = map(load_split, NAMED_SPLITS[name]), set(cameras)
    sides = [[key for key in part if key.camera in cameras] for part in lists]
    if name == "by_drive":
        drives = sorted({key.drive_name for key in available})
        tested = drives[-max(1, round(len(drives) / 4)) :]
        sides = [[key for key in available if (key.drive_name in tested) == t] for t in (0, 1)]
    split = FrameSplit(name, *(select(available, side) for side in sides))
    if not split.train.present or not split.test.present:
        train, test = (f"{len(s.present)} of {len(s.present + s.missing)}" for s in split[1:])
        found = f"Of split {name}, {train} images to train on and {test} to test on are there"
        advice = "get more of its drives or cameras, or name another split"
        raise ValueError(f"{found}: expected some of both; {advice}.")
    return split


def find_split(
    root: Path | str, *, split: str, cameras: Sequence[int], size: Sequence[int]
) -> tuple[KittiRaw, FrameSplit]:
    """Return the frames of a split that are below a folder of KITTI Raw, to be packed."""
    there = KittiRaw(root, cameras=tuple(cameras))
    sides = split_frames(there.keys, split, cameras)
    keys = sides.train.present + sides.test.present
    raw = KittiRaw(root, cameras=tuple(cameras), size=tuple(size), keys=keys)
    raw.left_out = there.left_out  # also of dates without calibration, which these do not need
    return raw, sides


def packing_costs(task: Preparation, workers: int) -> str:
    """Say what will be made, its disk space, and its time if every worker has a core of its own."""
    seconds = seconds_a_frame(task) * len(task.dataset) / max(workers, 1)
    height, width = task.dataset.size
    return (
        f"{task.dataset.report()}\n"
        f"to {task.folder} at {height}x{width}: {task.bytes_needed / 1e9:.2f} GB needed, "
        f"{task.bytes_free / 1e9:.2f} GB free, about {seconds / 60:.0f} min "
        f"with {workers} workers"
    )


def seconds_a_frame(task: Preparation) -> float:
    """Time one frame; broken ones, which will be left out, are passed over."""
    warm, count = False, len(task.dataset)
    for index in (0, count // 2, *range(min(count, 8))):
        start = time.perf_counter()
        with suppress(ValueError, FileNotFoundError):
            task.read_frame(index)
            if warm:
                return time.perf_counter() - start
            warm = True  # the first call loads Pillow
    return 0.0
