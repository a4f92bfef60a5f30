"""A set of frames as short text that a person can read and a diff can show.

One line for each drive and its cameras, with ranges of frames; the split files and the label sets
in run records are written like this:

    2011_09_26_drive_0001 2,3 0-103 107       frames 0 to 103 and 107 of cameras 2 and 3
    2011_09_30_drive_0020 2 0-1088/64         every 64th frame from 0 to 1088 of camera 2

A set has no order, and neither has its text: lines are sorted by drive, then by camera.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ubnlib.kitti.layout import FrameKey

LAST_FRAME = 999_999
"""The largest frame number taken: a day at 10 Hz. A slip in a range cannot fill the memory."""

_HEAD = re.compile(r"(\d{4}_\d\d_\d\d)_drive_(\d{4}) ([0-3](?:,[0-3])*)", re.ASCII)
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6})(?:/([1-9]\d{0,5}))?)?", re.ASCII)


def compact(keys: Iterable[FrameKey]) -> list[str]:
    """Write a set of frames as lines.

    Args:
        keys: Frames in any order; repetitions count once.

    Returns:
        Lines without line ends. The same set always gives the same lines, whatever its order.

    Raises:
        ValueError: If a key does not follow KITTI's naming, so that its line could not be read.

    Example:
        >>> compact(FrameKey("2011_09_26", "0001", camera, f) for camera in (2, 3) for f in (1, 2))
        ['2011_09_26_drive_0001 2,3 1-2']
    """
    sequences: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for key in keys:
        if not 0 <= key.frame <= LAST_FRAME:
            raise ValueError(
                f"Frame {key.frame} of drive {key.drive_name} cannot be written: expected a whole "
                f"number from 0 to {LAST_FRAME}."
            )
        sequences[key.drive_name, key.camera].add(key.frame)
    cameras: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for (drive, camera), frames in sorted(sequences.items()):
        cameras[drive, _write_ranges(sorted(frames))].append(str(camera))
    lines = {f"{drive} {','.join(same)}": text for (drive, text), same in cameras.items()}
    for head in lines:
        if not _HEAD.fullmatch(head):
            raise ValueError(
                f"Drive and cameras {head!r} cannot be written: expected names as in KITTI Raw, "
                f"such as 2011_09_26_drive_0001, and cameras from 0 to 3."
            )
    return [f"{head} {text}" for head, text in lines.items()]


def expand(lines: Iterable[str], source: str = "frame set") -> list[FrameKey]:
    """Read the frames that lines name: the inverse of `compact`.

    Empty lines, and lines that begin with `#`, are passed over. Lines and ranges may stand in any
    order, and a drive on several lines, as long as no frame is named twice.

    Args:
        lines: Lines with or without their ends.
        source: What error messages call the lines, such as the file's name.

    Returns:
        The frames, sorted.

    Raises:
        ValueError: If a line is malformed or names a frame again.
    """
    keys: set[FrameKey] = set()
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"Line {number} of {source}"
        head = _HEAD.fullmatch(" ".join(words[:2]))
        if not head or len(words) < 3:
            raise ValueError(
                f"{where} is {line.strip()[:80]!r}: expected a drive, its cameras and frames, such "
                f"as '2011_09_26_drive_0001 2,3 0-103 107'."
            )
        date, drive, cameras = head.groups()
        for frames in (_read_range(word, where) for word in words[2:]):
            for camera in cameras.split(","):
                named = {FrameKey(date, drive, int(camera), frame) for frame in frames}
                if again := named & keys:
                    raise ValueError(
                        f"{where} names frame {min(again).frame} of camera {camera} of drive "
                        f"{date}_drive_{drive} again: expected each frame once."
                    )
                keys |= named
    return sorted(keys)


def digest(keys: Iterable[FrameKey]) -> str:
    """Return the first 16 hex digits of a SHA-256 over the lines of a set, each with its end."""
    text = "".join(f"{line}\n" for line in compact(keys))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write_ranges(frames: Sequence[int]) -> str:
    """Cut sorted frames, first to last, into the longest evenly spaced runs.

    Two frames are a run only if they are neighbors; what is in no run stands alone.
    """
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
        if last > first and (last - first) % (step or 1) == 0:
            return range(first, last + 1, step or 1)
    raise ValueError(
        f"{where} holds the range {word[:40]!r}: expected a frame such as 5, an ascending range "
        f"such as 5-9, or one whose step ends on its last frame, such as 5-9/2."
    )
