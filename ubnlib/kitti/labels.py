"""Which frames keep their depth map when labels are few: the paper's way, and at random.

Both choose within each sequence, one camera of one drive; every frame keeps its image. The paper
goes from all depth maps down to one in 128, halving each time. Choices are nested, so that a model
with fewer labels never sees one that a model with more does not. `framesets.compact` writes the
chosen frames for a record.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from ubnlib.kitti.layout import FrameKey


def keep_every(keys: Sequence[FrameKey], k: int, phase: int = 0) -> np.ndarray:
    """Choose the depth maps that a sensor with a k times lower frame rate would have recorded.

    This is how the paper removes labels: in each sequence every k-th frame that is there keeps its
    depth map. With one phase, the choices for k and for any multiple of k are nested.

    A sequence of n frames keeps ceil(n / k) with phase 0, at least its first. With another phase it
    may keep one less, and none if it has ended before the slow sensor's first frame; over the
    phases 0 to k - 1, each frame is kept exactly once.

    Args:
        keys: Frames in any order.
        k: Keep one frame in k, counted over the frames present; frame numbers may have gaps.
        phase: Position of the first kept frame, modulo k.

    Returns:
        [len(keys)] bool: True where the frame keeps its depth map.

    Raises:
        ValueError: If k is not positive, or a frame is named twice.
    """
    kept = np.zeros(len(keys), dtype=bool)
    for sequence in _sequences(keys, k):
        kept[sequence[phase % k :: k]] = True
    return kept


def keep_random(keys: Sequence[FrameKey], k: int, seed: int) -> np.ndarray:
    """Choose one depth map in k of each sequence at random, spread unevenly over time.

    Seed, drive and frame number give each scan a rank, and a sequence of n frames keeps the
    ceil(n / k) lowest: as many as `keep_every` with phase 0. Choices of one seed are nested for all
    k. A rank depends neither on the other frames or drives in the folder nor on the camera, so a
    scan dropped is dropped for both cameras where both have the same frames.

    Args:
        keys: Frames in any order.
        k: Keep one frame in k, rounded up in each sequence.
        seed: Seed of the ranks.

    Returns:
        [len(keys)] bool: True where the frame keeps its depth map.

    Raises:
        ValueError: If k is not positive, or a frame is named twice.
    """

    # A hash rather than a generator: the same on every machine and in every version of numpy.
    def rank(index: int) -> bytes:
        key = keys[index]
        return hashlib.sha256(f"{seed} {key.drive_name} {key.frame}".encode()).digest()

    kept = np.zeros(len(keys), dtype=bool)
    for sequence in _sequences(keys, k):
        kept[sorted(sequence, key=rank)[: -(-len(sequence) // k)]] = True
    return kept


def _sequences(keys: Sequence[FrameKey], k: int) -> Iterable[list[int]]:
    """Return the positions of each sequence's frames, in the order of their frame numbers."""
    if k < 1:
        raise ValueError(f"k is {k}, expected a whole number from 1 upward.")
    sequences: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        sequence = sequences[keys[index].drive_name, keys[index].camera]
        if sequence and keys[sequence[-1]] == keys[index]:
            raise ValueError(f"Frame {tuple(keys[index])} is named twice: expected each key once.")
        sequence.append(index)
    return sequences.values()
