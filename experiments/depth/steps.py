"""What a depth run is made of: its net, optimizer, batches and loss, put together as an engine."""

from typing import Any

import torch
from torch import Tensor, nn

from experiments.common.training import initialized_by
from experiments.depth.config import DepthConfig
from experiments.depth.data import DepthData
from experiments.depth.engine import Engine
from experiments.depth.evaluate import to_input
from experiments.depth.forms import UBNForm
from experiments.depth.ranks import Ranks
from ubnlib.dispnet import DispNet
from ubnlib.forward import side_by_side, two_passes, ubn_forward
from ubnlib.kitti import LabeledUnlabeledLoader
from ubnlib.kitti.loader import StepData
from ubnlib.losses import multiscale_depth_loss


def make_engine(config: DepthConfig, net: nn.Module, loader: Any, ranks: Ranks) -> Engine:
    """Return a run's engine.

    Args:
        config: The run.
        net: From `make_net`.
        loader: From `make_loader`, or another one of such batches.
        ranks: The processes that train.
    """
    return Engine(
        ranks.wrap(net),
        make_optimizer(net, config),
        lambda model, batch: loss_of_step(model, batch, config, ranks),
        loader,
        config.engine,
        ranks,
        config.seed,
    )


def make_loader(
    config: DepthConfig,
    data: DepthData,
    ranks: Ranks,
    *,
    steps: int | None = None,
    workers: int = 0,
) -> LabeledUnlabeledLoader:
    """Return the batches of a run; batch normalization gets no unlabeled images.

    Args:
        config: The run.
        data: Its data.
        ranks: The processes that train: each gets its part of every batch.
        steps: Only the first optimizer steps; None for all.
        workers: Processes that read ahead.

    Raises:
        ValueError: The data is not that of the configuration.
    """
    if config.data != data.fingerprint:
        raise ValueError(
            f"The configuration is for data {config.data} and the frames given are "
            f"{data.fingerprint}: make the configuration with data=data.fingerprint."
        )
    labeled, unlabeled = data.labeled(config.labels)
    parts = config.engine.accumulate
    steps = config.total_steps(len(data.train)) if steps is None else steps
    return LabeledUnlabeledLoader(
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


def make_net(config: DepthConfig, ranks: Ranks) -> DispNet:
    """Return the net of a run before training, on its device."""
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
    return config.engine.prepare(norm.apply(net).to(ranks.device))


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
