"""Sets of frames: splits of KITTI Raw, which labels are kept, and sets as readable text.

docs/kitti.md says what the shipped lists are, and which stand in for the paper's own split, which
was not published; each file names its source. `data_scripts/make_splits.py` makes or checks them.

Labels are kept within each sequence, one camera of one drive; every frame keeps its image. Choices
are nested: a model with fewer labels never sees one that a model with more does not.

As text, a set has one line for each drive and its cameras, with ranges of frames; lines are sorted:

    2011_09_26_drive_0001 2,3 0-103 107       frames 0 to 103 and 107 of cameras 2 and 3
    2011_09_30_drive_0020 2 0-1088/64         every 64th frame from 0 to 1088 of camera 2
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby, pairwise, product
from typing import NamedTuple

import numpy as np

from ubnlib.kitti.raw import FrameKey

LAST_FRAME = 999_999  # a day at 10 Hz: a slip in a range cannot fill the memory

_HEAD = re.compile(r"(\d{4}_\d\d_\d\d)_drive_(\d{4}) ([0-3](?:,[0-3])*)", re.ASCII)
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6})(?:/([1-9]\d{0,5}))?)?", re.ASCII)


class Split(NamedTuple):
    """What a split is, and how many images it has."""

    description: str
    count: int


SPLITS = {  # the shipped splits by name
    "eigen_train": Split("Eigen train: 33 drives, both cameras, without the frames of val", 45_200),
    "eigen_val": Split("Eigen val: frames drawn at random from the train drives", 1_776),
    "eigen_test_697": Split("Eigen test: left images of 28 other drives", 697),
    "eigen_test_652": Split("Eigen test images that have improved ground truth", 652),
    "paper_standin_train": Split("Stand-in for the paper's train split: 30 drives", 41_872),
    "paper_standin_val": Split("Stand-in for the paper's validation split: 3 whole drives", 2_480),
}


def load_split(name: str) -> list[FrameKey]:
    """Return the frames of a shipped split, one of `SPLITS`, sorted.

    No such split, or a changed file, is a ValueError, a missing file a FileNotFoundError.
    """
    if name not in SPLITS:
        raise ValueError(f"There is no split {name!r}: expected one of {', '.join(SPLITS)}.")
    source, count = f"split_lists/{name}.txt", SPLITS[name].count
    file = resources.files("ubnlib.kitti").joinpath(source)
    if not file.is_file():
        raise FileNotFoundError(f"{source} is missing from ubnlib.kitti: install ubnlib again.")
    keys = expand(file.read_text(encoding="utf-8").splitlines(), source)
    if len(keys) != count:
        found = f"{source} of ubnlib.kitti names {len(keys)} images"
        raise ValueError(f"{found}: expected {count}; install ubnlib again.")
    return keys


@dataclass(frozen=True)
class Selection:
    """What of a list of frames is there."""

    present: tuple[FrameKey, ...]  # in the order of those available
    missing: tuple[FrameKey, ...]  # sorted

    @property
    def drives(self) -> dict[str, tuple[int, int]]:
        """The list's drives: (frames present, frames of the list), by name, sorted."""
        present = Counter(key.drive_name for key in self.present)
        wanted = present + Counter(key.drive_name for key in self.missing)
        return {name: (present[name], wanted[name]) for name in sorted(wanted)}

    def report(self, shown: int = 8) -> str:
        """Say what is there, naming some of the incomplete drives."""
        drives, total = self.drives, len(self.present) + len(self.missing)
        if not self.missing:
            return f"{total:,} images, drives: {len(drives)}"
        lacking = [f"{name} has {n:,} of {of:,}" for name, (n, of) in drives.items() if n < of]
        more = [f"and {len(lacking) - shown} more"] if len(lacking) > shown else []
        found = f"{len(self.present):,} of {total:,} images; {len(self.missing):,} are missing, of"
        return (
            f"{found} {len(lacking)} of {len(drives)} drives: {', '.join(lacking[:shown] + more)}"
        )


def select(available: Iterable[FrameKey], wanted: Iterable[FrameKey]) -> Selection:
    """Find what of a list is among a dataset's frames: many people have parts of KITTI."""
    asked = set(wanted)
    present = tuple(key for key in available if key in asked)
    return Selection(present, tuple(sorted(asked.difference(present))))


def keep_every(keys: Sequence[FrameKey], k: int, phase: int = 0) -> np.ndarray:
    """Choose the depth maps that a sensor with a k times lower frame rate would have recorded.

    This is how the paper removes labels: each sequence keeps every k-th frame that is there, from
    position `phase` modulo k on; of n frames ceil(n / k) with phase 0. With one phase, choices for
    k and any multiple of k are nested; over the phases 0 to k - 1, each frame is kept exactly once.
    The result is [len(keys)] bool: True where a frame, in any order, keeps its depth map. A
    ValueError says that k is not positive, or that a frame is named twice.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected a whole number from 1 upward.")
    kept = np.zeros(len(keys), dtype=bool)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    if again := [keys[one] for one, other in pairwise(order) if keys[one] == keys[other]]:
        raise ValueError(f"Frame {tuple(again[0])} is named twice: expected each key once.")
    for _, sequence in groupby(order, lambda index: keys[index][:3]):  # date, drive and camera
        kept[list(sequence)[phase % k :: k]] = True
    return kept


def compact(keys: Iterable[FrameKey]) -> list[str]:
    """Write a set of frames as lines without ends; order and repetitions change nothing."""
    sequences: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for key in keys:
        if not 0 <= key.frame <= LAST_FRAME:
            found = f"Frame {key.frame} of drive {key.drive_name} cannot be written"
            raise ValueError(f"{found}: expected a whole number from 0 to {LAST_FRAME}.")
        sequences[key.drive_name, key.camera].add(key.frame)
    cameras: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for (drive, camera), frames in sorted(sequences.items()):
        if not _HEAD.fullmatch(f"{drive} {camera}"):
            found = f"Drive and camera '{drive} {camera}' cannot be written"
            expected = "expected names such as 2011_09_26_drive_0001, and cameras from 0 to 3"
            raise ValueError(f"{found}: {expected}.")
        cameras[drive, _write_ranges(sorted(frames))].append(str(camera))
    return [f"{drive} {','.join(same)} {ranges}" for (drive, ranges), same in cameras.items()]


def expand(lines: Iterable[str], source: str = "frame set") -> list[FrameKey]:
    """Read lines, in any order, into sorted frames: the inverse of `compact`; `#` is a comment."""
    keys: set[FrameKey] = set()
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"Line {number} of {source}"
        head = _HEAD.fullmatch(" ".join(words[:2]))
        if not head or len(words) < 3:
            expected = "expected a drive, its cameras and frames, '2011_09_26_drive_0001 2,3 0-107'"
            raise ValueError(f"{where} is {line.strip()[:80]!r}: {expected}.")
        date, drive, cameras = head.groups()
        for word, camera in product(words[2:], cameras.split(",")):
            frames = _read_range(word, where)
            named = {FrameKey(date, drive, int(camera), frame) for frame in frames}
            if again := named & keys:
                first = min(again)
                frame = f"frame {first.frame} of camera {camera} of drive {first.drive_name}"
                raise ValueError(f"{where} names {frame} again: expected each frame once.")
            keys |= named
    return sorted(keys)


def digest(keys: Iterable[FrameKey]) -> str:
    """Return the first 16 hex digits of a SHA-256 over the lines of a set, each with its end."""
    text = "".join(f"{line}\n" for line in compact(keys))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write_ranges(frames: Sequence[int]) -> str:
    """Cut sorted frames into the longest evenly spaced runs; a run of two is of neighbors."""
    words, start = [], 0
    while start < len(frames):
        step = frames[start + 1] - frames[start] if start + 1 < len(frames) else 1
        end = start + 1
        while end < len(frames) and frames[end] - frames[end - 1] == step:
            end += 1
        if end - start < 3 and step > 1:
            end = start + 1
        first, last = frames[start], frames[end - 1]
        words.append(f"{first}" if first == last else f"{first}-{last}" + f"/{step}" * (step > 1))
        start = end
    return " ".join(words)


def _read_range(word: str, where: str) -> range:
    """Read `5`, `5-9` or `5-9/2`."""
    if match := _RANGE.fullmatch(word):
        first, last, step = (int(digits) if digits else None for digits in match.groups())
        if last is None:
            return range(first, first + 1)
        step = step or 1
        if last > first and (last - first) % step == 0:
            return range(first, last + 1, step)
    expected = "expected a frame, 5, an ascending range, 5-9, or whole steps to its end, 5-9/2"
    raise ValueError(f"{where} holds the range {word[:40]!r}: {expected}.")
