"""The depth experiment of section 4: DispNet trained with few depth maps and all images."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from ubnlib.depth_curves import accuracy_of_parts, evaluate_frames, statistics_of_parts, to_input
from ubnlib.depth_data import DepthData, LabelsConfig
from ubnlib.depth_loss import Downscale, LossNorm, multiscale_depth_loss
from ubnlib.diagnostics import refresh_statistics
from ubnlib.dispnet import DispNet
from ubnlib.engine import Engine, EngineConfig
from ubnlib.forms import NormConfig, UBNForm
from ubnlib.kitti import LabeledUnlabeledLoader
from ubnlib.kitti.framesets import compact
from ubnlib.kitti.packed.loader import StepData
from ubnlib.provenance import source_digest
from ubnlib.ranks import Ranks, alone
from ubnlib.records import Config, Record, Result, obtain, recorded
from ubnlib.steps import side_by_side, two_passes, ubn_forward
from ubnlib.training import BNConfig, initialized_by
from ubnlib.weights import save_weights


class DepthConfig(Config):
    """One depth run. Unstated in the paper: the loss's norm and how targets are downscaled."""

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


def train_depth(
    config: DepthConfig,
    data: DepthData,
    *,
    ranks: Ranks | None = None,
    checkpoint: Path | None = None,
    every_seconds: float = 60.0,
    progress: str | None = None,
    workers: int = 0,
) -> tuple[DispNet, dict[str, list[float]]]:
    """Train DispNet; runs of a seed share their first weights and their labeled batches.

    All runs make the same number of optimizer steps, so that fewer labels do not mean less
    training, and batch normalization never sees an unlabeled image.

    Args:
        config: The run.
        data: Its data.
        ranks: The processes that train it together (`ubnlib.ranks.joined`); None for this one.
        checkpoint: File of the run's state, from which a killed run goes on; see `Engine.train`.
        every_seconds: How much work may be lost.
        progress: Label of a progress bar; None shows none.
        workers: Processes that read batches ahead; the result does not depend on them.

    Returns:
        The net, and curves: the loss of each step and, at `config.evaluations` points, accuracies
        (delta < 1.25) of labeled, unlabeled and test frames and the layers' statistics.

    Raises:
        ValueError: The data is not that of the configuration.
        FloatingPointError: The loss or the gradient is not finite.
    """
    if config.data != data.fingerprint:
        raise ValueError(
            f"The configuration is for data {config.data} and the frames given are "
            f"{data.fingerprint}: make the configuration with data=data.fingerprint."
        )
    ranks = ranks or alone()
    net = config.engine.prepare(make_net(config, ranks).to(ranks.device))
    labeled, unlabeled = data.labeled(config.labels)
    steps, parts = config.total_steps(len(data.train)), config.engine.accumulate
    loader = LabeledUnlabeledLoader(
        data.frames,
        labeled,
        unlabeled if config.norm.kind == "ubn" else (),
        labeled_batch=config.labeled_batch // parts,
        unlabeled_batch=config.unlabeled_batch // parts,
        steps=steps * parts,
        seed=config.seed,
        workers=workers,
        pin_memory=ranks.device.type == "cuda",
        part=(ranks.rank, ranks.world),
    )
    points = {math.ceil(steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}

    def observe(step: int) -> dict[str, float]:
        if step not in points:
            return {}
        parts = accuracy_of_parts(net, config.labels, data)
        return {"step": step, **parts, **statistics_of_parts(net, config.labels, data)}

    engine = Engine(
        ranks.wrap(net),
        make_optimizer(net, config),
        lambda model, batch: loss_of_step(model, batch, config, ranks),
        loader,
        config.engine,
        ranks,
        config.seed,
    )
    engine.train(
        observe=observe, checkpoint=checkpoint, every_seconds=every_seconds, progress=progress
    )
    return net, engine.curves


def make_net(config: DepthConfig, ranks: Ranks) -> DispNet:
    """Return the net of a run before training, with its normalization."""
    with initialized_by(config.seed):
        net = DispNet(config.scale, config.min_disparity, config.width, levels=config.levels)
    norm = config.norm
    if ranks.world > 1 and norm.kind == "ubn" and norm.repair != "nothing":
        raise ValueError(
            f"repair is {norm.repair!r} with {ranks.world} processes: a repair knows the rows of "
            "its own process only; start one."
        )
    if ranks.world > 1 and norm.kind == "bn":
        # Without unlabeled rows UBN is batch normalization, and over the rows of all ranks.
        norm = UBNForm(momentum=norm.momentum)
    return norm.apply(net)


def make_optimizer(net: nn.Module, config: DepthConfig) -> torch.optim.Optimizer:
    """Return the run's optimizer: the paper's Adam; weights may decay, by AdamW's rule."""
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay, fused=True)


def loss_of_step(model: nn.Module, batch: StepData, config: DepthConfig, ranks: Ranks) -> Tensor:
    """Return the loss of one batch, over the rows of all ranks; see `Engine`."""
    labeled = batch.labeled.to(ranks.device, non_blocking=True)
    rows = to_input(labeled.images, config.engine.channels_last)
    others = rows[:0] if ranks.world > 1 else None
    if batch.unlabeled is not None:
        others = batch.unlabeled.to(ranks.device, non_blocking=True).images
        others = to_input(others, config.engine.channels_last)
    if others is None:
        predictions = ubn_forward(model, rows, None)
    elif config.norm.kind == "ubn" and config.norm.needs_both_halves:
        predictions = side_by_side(model, rows, others)
    elif config.engine.passes == "two":
        predictions = two_passes(model, rows, others)
    else:
        predictions = ubn_forward(model, rows, others)
    loss = multiscale_depth_loss(
        predictions,
        labeled.depth(),
        mode=config.downscale,
        norm=config.loss,
        total=ranks.total if ranks.world > 1 else None,
        shares=ranks.world,
    )
    if batch.unlabeled is None:  # and so on all ranks
        return loss
    return loss + config.norm.penalty(model)


@recorded
def run_depth(
    config: DepthConfig,
    data: DepthData,
    *,
    weights: Path | None = None,
    ranks: Ranks | None = None,
    checkpoint: Path | None = None,
    every_seconds: float = 60.0,
    progress: str | None = None,
    workers: int = 0,
) -> Result:
    """Train one net and measure it on all test frames, at the frames' resolution, uncropped.

    The metrics are those of the moving averages, and `refreshed_delta1` the accuracy with
    statistics that were measured anew on training images, unlabeled ones too, after training:
    what a user of batch normalization can have without UBN.

    Where `weights` names a file, the trained net is kept there; see `ubnlib.weights`. The record
    names the labeled frames. See `train_depth` for the other arguments.
    """
    net, curves = train_depth(
        config,
        data,
        ranks=ranks,
        checkpoint=checkpoint,
        every_seconds=every_seconds,
        progress=progress,
        workers=workers,
    )
    if weights is not None:
        save_weights(net, weights)
    metrics = evaluate_frames(net, data.frames, data.test).means
    parts = accuracy_of_parts(net, config.labels, data)
    metrics |= {f"{name}_delta1": value for name, value in parts.items() if name != "test"}
    refreshed = refresh_statistics(copy.deepcopy(net), _training_images(net, data))
    metrics["refreshed_delta1"] = evaluate_frames(refreshed, data.frames, data.test).means["delta1"]
    labeled, unlabeled = data.labeled(config.labels)
    metrics |= {"labeled_frames": float(len(labeled)), "unlabeled_frames": float(len(unlabeled))}
    curves["loss"] = curves["loss"][:: max(1, len(curves["loss"]) // 100)]
    frames = {"labeled": compact(data.frames.keys[i] for i in labeled)}
    return Result.of_one_seed(metrics, curves, frames)


def _training_images(net: DispNet, data: DepthData, frames: int = 512) -> Iterator[Tensor]:
    """Yield batches of training images from all over the set, in an order that does not matter."""
    device = next(net.parameters()).device
    some = data.train[:: max(1, len(data.train) // frames)]
    for part in torch.from_numpy(some).split(64):
        yield to_input(data.frames.batch(part, depth=False).images.to(device))


def obtain_depth(
    config: DepthConfig,
    data: DepthData,
    records: Path | str,
    *,
    ranks: Ranks | None = None,
    checkpoints: Path | None = None,
    weights: Path | None = None,
    every_seconds: float = 60.0,
    progress: str | None = None,
    workers: int = 0,
) -> Record:
    """Return a run's record, making it where it is missing, from its checkpoint if there is one.

    Args:
        config: The run.
        data: Its data.
        records: Folder of the records.
        ranks: The processes that train it together; None for this one.
        checkpoints: Folder of checkpoints, each of which goes when its record is there; None
            writes none.
        weights: Folder of trained weights, KEY.npz; None keeps none.
        every_seconds: How much work may be lost.
        progress: Label of a progress bar; None shows none.
        workers: Processes that read batches ahead.
    """
    key = f"{config.key}-{source_digest(__name__)}"  # other code would not end in the same metrics
    checkpoint = None if checkpoints is None else Path(checkpoints) / f"{key}.npz"

    def run(config: DepthConfig) -> Record:
        return run_depth(
            config,
            data,
            weights=None if weights is None else Path(weights) / f"{config.key}.npz",
            ranks=ranks,
            checkpoint=checkpoint,
            every_seconds=every_seconds,
            progress=progress,
            workers=workers,
        )

    record = obtain(config, run, records)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
        for partial in checkpoint.parent.glob(f"{checkpoint.name}.*.partial"):
            partial.unlink()  # of a run that was killed while it wrote
    return record
