"""The configuration of a depth run: everything that its record depends on."""

import math
from typing import ClassVar, Literal

from pydantic import model_validator

from experiments.common.records import Config
from experiments.common.training import BNConfig
from experiments.depth.data import LabelsConfig
from experiments.depth.engine import EngineConfig
from experiments.depth.forms import NormConfig
from ubnlib.losses import Downscale, LossNorm


class DepthConfig(Config):
    """One depth run. Unstated in the paper: the loss's norm and how targets are downscaled."""

    version: ClassVar[int] = 1
    experiment: Literal["depth"] = "depth"
    data: str  # fingerprint of the frames, so that a record says what it saw
    norm: NormConfig = BNConfig()
    labels: LabelsConfig
    width: float = 1.0
    levels: int = 7
    scale: float = 0.4
    min_disparity: float = 0.0125
    loss: LossNorm = "l1"
    downscale: Downscale = "nearest_surface"
    labeled_batch: int = 8
    unlabeled_batch: int = 24
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    steps: int | None = None  # optimizer steps, or ...
    epochs: float | None = None  # ... passes over all training images, by batches of both kinds
    evaluations: int = 4  # points of the curves
    engine: EngineConfig = EngineConfig()
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> "DepthConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"steps is {self.steps} and epochs {self.epochs}: give one of them.")
        parts = self.engine.accumulate
        if self.labeled_batch % parts or self.unlabeled_batch % parts:
            raise ValueError(
                f"Batches of {self.labeled_batch} labeled and {self.unlabeled_batch} unlabeled "
                f"frames cannot be divided into {parts} equal micro-batches."
            )
        if self.engine.compile and self.norm.kind == "ubn" and self.norm.needs_both_halves:
            raise ValueError(
                'compile does not go with stats_grad="all" and a gap_weight, whose gradient needs '
                "both halves side by side: set one of them otherwise."
            )
        return self

    def total_steps(self, images: int) -> int:
        """Return the optimizer steps, which are the same for every method and label share.

        Args:
            images: Number of training images, labeled or not.
        """
        if self.steps is not None:
            return self.steps
        return math.ceil(self.epochs * images / (self.labeled_batch + self.unlabeled_batch))
