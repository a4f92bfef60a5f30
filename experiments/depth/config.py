"""The configuration of a depth run: everything that its record depends on.

Its normalization is batch normalization or a form of UBN, which may repair the literal reading.
With statistics that are constants in backward, the gradient of a layer's input has parts that the
next collection of statistics cancels: a common shift of a channel, and a common scale. Batch
normalization's gradient has neither. A repair takes one of them out, or both; with both, the
gradient is that of `stats_grad="corrected"`.
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from experiments.common.records import Config
from experiments.common.training import BNConfig, UBNConfig
from experiments.depth.data import LabelsConfig
from experiments.depth.engine import EngineConfig
from ubnlib.batchnorm import UnsupervisedBatchNorm
from ubnlib.convert import convert_ubn
from ubnlib.dispnet import DispNet
from ubnlib.forward import ubn_layers
from ubnlib.losses import Downscale, LossNorm

Repair = Literal["nothing", "shift", "scale", "both"]


def common_shift(gradient: Tensor) -> Tensor:
    """Return a gradient's part along a shift of each channel: [N, C, ...] to [1, C, 1, ...]."""
    return gradient.mean(_across(gradient), keepdim=True)


def common_scale(gradient: Tensor, x: Tensor) -> Tensor:
    """Return the part along a scale of each channel of a gradient with respect to x [N, C, ...]."""
    across = _across(x)
    centered = x - x.mean(across, keepdim=True)
    along = (gradient * centered).sum(across, keepdim=True)
    return along / centered.square().sum(across, keepdim=True).clamp_min(1e-12) * centered


def _across(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def without_cancelled(gradient: Tensor, x: Tensor, repair: Repair) -> Tensor:
    """Return a gradient with respect to x without its part along a shift or scale of a channel."""
    if repair in ("shift", "both"):
        gradient = gradient - common_shift(gradient)
    if repair in ("scale", "both"):
        gradient = gradient - common_scale(gradient, x)
    return gradient


def repair_literal(model: nn.Module, repair: Repair) -> nn.Module:
    """Let every UBN layer of a model take a part out of its input's gradient, in place."""

    def watch(layer: UnsupervisedBatchNorm, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        if layer.training and x.requires_grad:
            values = x.detach()
            x.register_hook(lambda gradient: without_cancelled(gradient, values, repair))

    for layer in ubn_layers(model):
        layer.register_forward_pre_hook(watch)
    return model


class UBNForm(UBNConfig):
    """UBN with switches that the paper does not have; the defaults are `UBNConfig`'s."""

    unlabeled_weight: float | None = None
    averages_only: bool = False  # the combined batch moves the averages; x has its own statistics
    gap_weight: Literal[0.0] = 0.0  # of a penalty that was taken out; in the records' keys,
    gap_gradient: Literal["labeled"] = "labeled"  # and so is this
    repair: Repair = "nothing"  # of the literal reading's gradient

    @model_validator(mode="after")
    def _goes_together(self) -> "UBNForm":
        plain = UBNForm.model_construct(averages_only=True, momentum=self.momentum)
        if self.averages_only and self.model_dump() != plain.model_dump():
            raise ValueError(
                "averages_only goes with momentum alone: no layer normalizes by the combined batch."
            )
        if self.repair != "nothing" and (self.stats_grad, self.source) != ("none", "batch"):
            raise ValueError(
                f"repair is {self.repair!r}: it is for the literal reading, "
                'stats_grad="none" with source="batch".'
            )
        return self

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model, built with batch normalization, with this form of UBN instead."""
        if self.averages_only:
            return BNConfig(momentum=self.momentum).apply(model)
        own = {"kind", "averages_only", "gap_weight", "gap_gradient", "repair"}
        convert_ubn(model, **self.model_dump(exclude=own))
        if self.repair != "nothing":
            repair_literal(model, self.repair)
        return model


NormConfig = Annotated[BNConfig | UBNForm, Field(discriminator="kind")]


class DepthConfig(Config):
    """One depth run. Unstated in the paper: the loss's norm and how targets are downscaled.

    Ours, and off by default: a cosine schedule, mirrored images, predicting convolutions that begin
    with a part of their weights, and labeled rows in the place of unlabeled ones, as a control.
    """

    version: ClassVar[int] = 2
    experiment: Literal["depth"] = "depth"
    data: str  # fingerprint of the frames, so that a record says what it saw
    domain: str = ""  # what frames these are, and which arm of a study, so that claims can ask
    arm: str = ""
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
    unlabeled_from: Literal["unlabeled", "labeled"] = "unlabeled"  # the second batch's frames
    warmup: float = Field(0.0, ge=0, le=1)  # share of the steps that UBN is trained as BN first
    learning_rate: float = 2e-4
    schedule: Literal["constant", "cosine"] = "constant"  # of the rate, down to nothing
    weight_decay: float = 0.0
    steps: int | None = None  # optimizer steps, or ...
    epochs: float | None = None  # ... passes over all training images, by batches of both kinds
    mirror: bool = False  # every second image, at random
    start: float = Field(1.0, gt=0)  # the predicting convolutions' first weights, times this
    evaluations: int = 4  # points of the curves
    engine: EngineConfig = EngineConfig()
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> "DepthConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"steps is {self.steps} and epochs {self.epochs}: give one of them.")
        if self.norm.kind == "bn" and (self.warmup or self.unlabeled_from == "labeled"):
            raise ValueError(
                f"warmup is {self.warmup} and unlabeled_from {self.unlabeled_from!r}: batch "
                "normalization has no second batch; leave both out."
            )
        parts = self.engine.accumulate
        if self.labeled_batch % parts or self.unlabeled_batch % parts:
            raise ValueError(
                f"Batches of {self.labeled_batch} labeled and {self.unlabeled_batch} unlabeled "
                f"frames cannot be divided into {parts} equal micro-batches."
            )
        return self

    def total_steps(self, images: int) -> int:
        """Return the optimizer steps for so many training images, the same for every method."""
        if self.steps is not None:
            return self.steps
        return math.ceil(self.epochs * images / (self.labeled_batch + self.unlabeled_batch))

    def net(self) -> DispNet:
        """Return the run's net, with new weights and batch normalization."""
        return DispNet(self.scale, self.min_disparity, self.width, levels=self.levels)

    def rate(self, progress: float) -> float:
        """Return the learning rate after a share of the steps."""
        falls = self.schedule == "cosine"
        return self.learning_rate * (0.5 + 0.5 * math.cos(math.pi * progress) if falls else 1.0)
