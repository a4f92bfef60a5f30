"""Batches of labeled and unlabeled frames together, the same ones whenever a run goes on.

Which frames a step trains on is a pure function of the seed and the step's number, so the state of
the order is one number, and neither worker processes nor frames fetched ahead can disturb it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from ubnlib.kitti.packed import PackedBatch, PackedDepth, positions


class StepData(NamedTuple):
    """The frames of one training step."""

    labeled: PackedBatch
    unlabeled: PackedBatch | None  # without depth codes; None without unlabeled frames


class LabeledUnlabeledLoader:
    """Iterate over training steps, each with a labeled and an unlabeled batch.

    Every epoch of either kind visits all its frames once, in a new order; batches run across the
    borders of epochs, so that none is short. Iterating goes on where it stopped, at `step`.

    Args:
        frames: The packed frames.
        labeled: Positions of the frames that have a label.
        unlabeled: Positions of those that give their image only; none for batch normalization.
        labeled_batch, unlabeled_batch: Frames of each kind a step.
        steps: Number of steps in all.
        seed: Seed of both orders.
        workers: Processes that read ahead, 0 for none; one or two keep a GPU busy.
        pin_memory: Whether to put batches into pinned memory, for `to(device, non_blocking=True)`.
        part: (i, n): take every n-th row from i on; n processes take what a single one would.

    An IndexError says that there is no such frame, and a ValueError that none is labeled, frames
    are a mask, a batch size is not positive, or there is no such part.
    """

    def __init__(
        self,
        frames: PackedDepth,
        labeled: Sequence[int],
        unlabeled: Sequence[int] = (),
        *,
        labeled_batch: int,
        unlabeled_batch: int,
        steps: int,
        seed: int,
        workers: int = 0,
        pin_memory: bool = False,
        part: tuple[int, int] = (0, 1),
    ):
        if not len(labeled):
            raise ValueError("There is no labeled frame: expected at least one to train on.")
        if min(labeled_batch, unlabeled_batch) < 1:
            sizes = f"labeled_batch is {labeled_batch} and unlabeled_batch {unlabeled_batch}"
            raise ValueError(f"{sizes}: expected whole numbers from 1 upward.")
        if not 0 <= part[0] < part[1]:
            raise ValueError(f"part is {part}: expected (i, n) with i from 0 to n - 1.")
        self.step, self.steps, self.seed, self.frames = 0, steps, seed, frames
        self.labeled = positions(labeled, len(frames))
        self.unlabeled = positions(unlabeled, len(frames))
        self.labeled_batch, self.unlabeled_batch = labeled_batch, unlabeled_batch
        self._rows = slice(part[0], None, part[1])
        self._options = dict(num_workers=workers, pin_memory=pin_memory)

    def __len__(self) -> int:
        """Return the number of steps left."""
        return max(self.steps - self.step, 0)

    def __iter__(self) -> Iterator[StepData]:
        steps = range(self.step, self.steps)
        # A generator of its own: else each start would draw from torch's, and move it.
        own = dict(sampler=steps, generator=torch.Generator())
        for data in DataLoader(self, batch_size=None, **own, **self._options):
            self.step += 1  # of what was handed out, not of what was fetched ahead
            yield data

    def __getitem__(self, step: int) -> StepData:
        """Return the frames of any step."""
        rows = rows_of_step(step, self.labeled_batch, len(self.labeled), (self.seed, 0))
        labeled = self.frames.batch(self.labeled[rows[self._rows]])
        if not len(self.unlabeled):
            return StepData(labeled, None)
        rows = rows_of_step(step, self.unlabeled_batch, len(self.unlabeled), (self.seed, 1))
        return StepData(labeled, self.frames.batch(self.unlabeled[rows[self._rows]], depth=False))

    @cached_property
    def order(self) -> str:
        """Digest that is the same only if all steps are."""
        settings = self.frames.fingerprint, self.labeled_batch, self.unlabeled_batch, self.seed
        digest = hashlib.sha256(repr((settings, len(self.labeled))).encode())
        digest.update(self.labeled.astype("<i8"))
        digest.update(self.unlabeled.astype("<i8"))
        return digest.hexdigest()[:16]

    def state_dict(self) -> dict[str, int | str]:
        """Return what `load_state_dict` needs to go on after the last batch handed out."""
        return dict(step=self.step, order=self.order)

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Go on where a loader of the same order was; the state of another is a ValueError."""
        if state.get("order") != self.order:
            orders = f"is that of the order {state.get('order')}, this loader's {self.order}"
            raise ValueError(f"The state {orders}: give the same frames, labels, batches and seed.")
        self.step = state["step"]


def rows_of_step(step: int, size: int, of: int, seed: tuple[int, ...]) -> np.ndarray:
    """Return the positions, [size] int64 below `of`, of a step in shuffled epochs end to end."""
    places = np.arange(step * size, (step + 1) * size)
    epochs = range(places[0] // of, places[-1] // of + 1)
    orders = np.concatenate([_shuffled(of, (*seed, epoch)) for epoch in epochs])
    return orders[places - epochs[0] * of]


@lru_cache(maxsize=8)
def _shuffled(of: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(of)
