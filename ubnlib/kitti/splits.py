"""Splits of KITTI Raw, shipped as explicit lists of drive, camera and frame.

The `eigen_*` lists are those of D. Eigen, C. Puhrsch and R. Fergus (NeurIPS 2014) as circulated
with monodepth2 (C. Godard et al., ICCV 2019), l = camera 2 and r = camera 3. Order is not kept: a
split is a set of frames. Train and test share no drive; Eigen train and val share all of theirs.

The paper trained on 42,304 images and validated on 2,480. That split was not published and cannot
be replayed: no fixed rule that was tried (both cameras, static frames removed, three-frame
sequences, and their combinations) gives these counts, and a likely source, a preparation script
that splits scenes at random over an unordered set, would give others each time. The
`paper_standin_*` lists take its place. They are deterministic: of the 33 Eigen train drives, static
frames removed, validation is 0028, 0032 and 0070 of 2011_09_26, exactly 2,480 images, and train is
the other 30, 41,872 images. Of drive 2011_09_26_drive_0060 a single frame is left.

`data_scripts/make_splits.py` makes these files from the published lists, or checks them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

from ubnlib.kitti.framesets import expand
from ubnlib.kitti.layout import FrameKey


class Split(NamedTuple):
    """What a split is, and how many images it has."""

    description: str
    count: int


SPLITS = {
    "eigen_train": Split("Eigen train: 33 drives, both cameras, without the frames of val", 45_200),
    "eigen_val": Split("Eigen val: frames drawn at random from the train drives", 1_776),
    "eigen_test_697": Split("Eigen test: left images of 28 other drives", 697),
    "eigen_test_652": Split("Eigen test images that have improved ground truth", 652),
    "paper_standin_train": Split("Stand-in for the paper's train split: 30 drives", 41_872),
    "paper_standin_val": Split("Stand-in for the paper's validation split: 3 whole drives", 2_480),
}
"""The shipped splits by name."""


def load_split(name: str) -> list[FrameKey]:
    """Return the frames of a shipped split, sorted.

    Args:
        name: One of `SPLITS`.

    Raises:
        ValueError: If there is no such split, or its file has been changed.
        FileNotFoundError: If its file is not installed.

    Example:
        >>> load_split("eigen_test_697")[0]
        FrameKey(date='2011_09_26', drive='0002', camera=2, frame=0)
    """
    if name not in SPLITS:
        raise ValueError(f"There is no split {name!r}: expected one of {', '.join(SPLITS)}.")
    source = f"split_lists/{name}.txt"
    file = resources.files("ubnlib.kitti").joinpath(source)
    if not file.is_file():
        raise FileNotFoundError(f"{source} is missing from ubnlib.kitti: install ubnlib again.")
    keys = expand(file.read_text(encoding="utf-8").splitlines(), source)
    if len(keys) != SPLITS[name].count:
        raise ValueError(
            f"{source} of ubnlib.kitti names {len(keys)} images: expected {SPLITS[name].count}; "
            f"install ubnlib again."
        )
    return keys


@dataclass(frozen=True)
class Selection:
    """What of a split is there."""

    indices: tuple[int, ...]
    """Positions of the split's frames among the available ones, for `torch.utils.data.Subset`."""
    present: tuple[FrameKey, ...]
    """These frames, in the available ones' order."""
    missing: tuple[FrameKey, ...]
    """The split's other frames, sorted."""

    @property
    def drives(self) -> dict[str, tuple[int, int]]:
        """The split's drives: (frames present, frames of the split), by name, sorted."""
        present = Counter(key.drive_name for key in self.present)
        missing = Counter(key.drive_name for key in self.missing)
        return {
            name: (present[name], present[name] + missing[name])
            for name in sorted(present | missing)
        }

    def report(self, shown: int = 3) -> str:
        """Say in one sentence what is there and what is missing.

        Args:
            shown: How many of the incomplete drives to name; `drives` has all.
        """
        total, drives = len(self.present) + len(self.missing), self.drives
        lacking = [(name, *counts) for name, counts in drives.items() if counts[0] < counts[1]]
        found = f"{len(self.present)} of the split's {total} images are there"
        if not lacking:
            return f"{found}; drives: {len(drives)}, all complete."
        named = [f"{name} has {here} of {wanted}" for name, here, wanted in lacking[:shown]]
        if len(lacking) > shown:
            named.append(f"and {len(lacking) - shown} more")
        return (
            f"{found}; {len(lacking)} of its {len(drives)} drives are incomplete: "
            f"{', '.join(named)}."
        )


def select(available: Sequence[FrameKey], split: Iterable[FrameKey]) -> Selection:
    """Find what of a split is in a dataset, since many people have parts of KITTI.

    Args:
        available: The dataset's frames, such as `KittiRaw.keys`, in any order.
        split: The frames wanted, such as those of `load_split`.

    Returns:
        The frames present, with their positions in `available`, and the missing ones.
    """
    wanted = set(split)
    indices = tuple(index for index, key in enumerate(available) if key in wanted)
    present = tuple(available[index] for index in indices)
    return Selection(indices, present, tuple(sorted(wanted.difference(present))))


def split_by_drive(
    drives: Iterable[str], test_share: float = 0.25
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split drives into train and test, so that no drive's look is on both sides.

    Args:
        drives: Drive names in any order; repetitions count once.
        test_share: Share of the drives to test on, rounded to whole drives, at least one and not
            all of them.

    Returns:
        (train, test), each sorted: the last drives by name are the test drives.

    Raises:
        ValueError: If there are fewer than two drives, or the share is not between 0 and 1.

    Example:
        >>> split_by_drive(["b", "d", "a", "c"])
        (('a', 'b', 'c'), ('d',))
    """
    names = sorted(set(drives))
    if len(names) < 2:
        raise ValueError(f"Cannot split {len(names)} drive(s) {names}: expected at least two.")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}, expected a number between 0 and 1.")
    n_test = min(max(round(test_share * len(names)), 1), len(names) - 1)
    return tuple(names[:-n_test]), tuple(names[-n_test:])
