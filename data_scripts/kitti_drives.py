"""The drives of KITTI Raw's City, Residential and Road categories: names, sizes, Eigen's split.

drives.csv lists the frames per camera of the 61 drives. Those of the train drives agree with the
last frames of the published Eigen train lists. For the test drives no published table was found:
their counts are at least what the lists of test and static frames need, and all counts together
give the published totals exactly (42,382 in all, 23,488 in Eigen's train drives, 18,894 in the
test drives).
"""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DRIVE_SPLITS = ("all", "eigen_train", "eigen_test")
_MISSING_SCANS = {"2011_09_26_drive_0009": 4}  # 177 to 180
# The 28 drives of D. Eigen, C. Puhrsch, R. Fergus, "Depth Map Prediction from a Single Image using
# a Multi-Scale Deep Network", 2014; the other 33 are for training.
_EIGEN_TEST = {
    "2011_09_26": (
        "0002 0009 0013 0020 0023 0027 0029 0036 0046 0048 0052 0056 0059 0064 0084 0086 0093 "
        "0096 0101 0106 0117"
    ),
    "2011_09_28": "0002",
    "2011_09_29": "0071",
    "2011_09_30": "0016 0018 0027",
    "2011_10_03": "0027 0047",
}
EIGEN_TEST_DRIVES = frozenset(
    f"{date}_drive_{number}" for date, numbers in _EIGEN_TEST.items() for number in numbers.split()
)


class Drive(NamedTuple):
    """One recorded drive, as KITTI publishes it in one archive."""

    name: str  # such as "2011_09_26_drive_0001"
    frames: int  # images per camera after synchronization

    @property
    def date(self) -> str:
        """The recording date, such as `"2011_09_26"`."""
        return self.name[:10]

    @property
    def scans(self) -> int:
        """Velodyne scans: one per frame, but for the few that KITTI lacks."""
        return self.frames - _MISSING_SCANS.get(self.name, 0)


@functools.cache
def load_catalog() -> tuple[Drive, ...]:
    """Return the 61 drives, sorted by name."""
    text = Path(__file__).with_name("drives.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(Drive(row["name"], int(row["frames"])) for row in rows)


def choose_drives(
    drives: Sequence[str] | None = None, split: str | None = None
) -> tuple[Drive, ...]:
    """Return the drives of these names (`_sync` may follow) that are in the split, sorted by name.

    Raises:
        ValueError: If a name or the split is unknown, or if nothing is left.
    """
    if split not in (None, *DRIVE_SPLITS):
        raise ValueError(f"There is no split {split!r}: choose one of {', '.join(DRIVE_SPLITS)}.")
    catalog = {drive.name: drive for drive in load_catalog()}
    names = catalog if drives is None else {name.removesuffix("_sync") for name in drives}
    if unknown := sorted(set(names) - set(catalog)):
        raise ValueError(
            f"Unknown drives {', '.join(unknown)}: expected names like 2011_09_26_drive_0001 of "
            f"KITTI's City, Residential or Road category."
        )
    every, tests = split in (None, "all"), split == "eigen_test"
    kept = (name for name in sorted(names) if every or tests == (name in EIGEN_TEST_DRIVES))
    chosen = tuple(map(catalog.__getitem__, kept))
    if not chosen:
        raise ValueError(
            f"No drive is left to choose of {len(names)} named in split {split or 'all'!r}: name "
            f"others, or leave one of the two out."
        )
    return chosen
