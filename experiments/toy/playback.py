"""One net of the spiral while it trains: what the reading aid shows, step by step."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.common.training import evaluating, initialized_by
from experiments.toy.ensemble import Ensemble
from experiments.toy.net import SpiralNet
from experiments.toy.points import SpiralData
from experiments.toy.reference import frozen, random_batch
from experiments.toy.train import (
    SpiralTraining,
    accuracy,
    dense_spiral,
    member_data,
    train_spiral,
)

LAYERS = 3  # the normalizations that Figure 3 shows, of four


class Offsets(NamedTuple):
    """How far the statistics of random batches lie from the population's, [3, batches] each.

    Of one channel, in front of normalizations 1 to 3. The population is all labeled and unlabeled
    points as one batch. An unbiased batch scatters around (0, 1).
    """

    mean: Tensor  # (mu(batch) - mu(population)) / sigma(population)
    deviation: Tensor  # sigma(batch) / sigma(population)


class Snapshot(NamedTuple):
    """One net after a number of steps; features are one channel's, after normalizations 1 to 3.

    Probability and accuracies are those of eval mode, as in Figure 2. The features are normalized
    by all points that the method may use as one batch: labeled ones for batch normalization,
    labeled and unlabeled ones for UBN.
    """

    step: int
    probability: Tensor  # [P], of class 1
    labeled: Tensor  # [3, 2l]
    unlabeled: Tensor  # [3, 2u]
    labeled_batches: Offsets  # of the labeled batches that batch normalization trains with
    combined_batches: Offsets  # of labeled and unlabeled rows together, as UBN has them
    labeled_accuracy: float
    test_accuracy: float


class Playback(NamedTuple):
    """A training run to move back and forth in: its data, points [N, 2], and its snapshots."""

    data: SpiralData
    snapshots: list[Snapshot]


def snapshot_steps(total: int, count: int = 12) -> list[int]:
    """Return at most `count` numbers of steps from 0 to `total`, denser early, each once.

    Raises:
        ValueError: There is no place for both ends.

    Example:
        >>> snapshot_steps(400, 6)
        [0, 16, 64, 144, 256, 400]
    """
    if count < 2:
        raise ValueError(f"count is {count}: it must be at least 2, for the first and last step.")
    return sorted({round(total * (i / (count - 1)) ** 2) for i in range(count)})


def play(
    config: SpiralTraining,
    points: Tensor,
    *,
    channel: int = 0,
    count: int = 12,
    batches: int = 24,
) -> Playback:
    """Train one net and keep snapshots; training is as without them.

    Args:
        config: What to train, with one seed.
        points: Where to keep the class probability, [P, 2].
        channel: Whose features and statistics to keep.
        count: Most snapshots, the first before the first step and the last at the end.
        batches: How many random batches of each kind to take statistics of. They hold the same
            points in each snapshot, so what moves from one to the next is the net.

    Raises:
        ValueError: There are several seeds, or no such channel.
    """
    if len(config.seeds) != 1:
        raise ValueError(f"A playback shows one seed, and got {config.seeds}: give one.")
    if not 0 <= channel < config.width:
        raise ValueError(
            f"channel is {channel}: it must be from 0 to {config.width - 1}, as the layers have "
            f"{config.width}."
        )
    with initialized_by(0):  # its weights are never used
        template = SpiralNet(config.width, dropout=config.dropout)
    steps = set(snapshot_steps(config.steps, count))
    test = dense_spiral(config)
    snapshots = []

    def keep(step: int, net: Ensemble, data: SpiralData) -> None:
        if step not in steps:
            return
        everything = torch.cat([data.labeled, data.unlabeled])
        reference = everything if config.norm.kind == "ubn" else data.labeled
        with torch.random.fork_rng(devices=[]):  # dropout draws from torch's own generator
            fixed = frozen(net, reference)
            labeled, combined = (
                statistics_offsets(net, template, everything, drawn, channel)
                for drawn in _random_batches(config, data, batches)
            )
        with evaluating(net):
            probability = net(points[:, None])[:, 0].softmax(-1)[:, 1]
        snapshot = Snapshot(
            step,
            probability,
            _channel_features(fixed, data.labeled, channel),
            _channel_features(fixed, data.unlabeled, channel),
            labeled,
            combined,
            accuracy(net, data.labeled, data.labels).item(),
            accuracy(net, *test).item(),
        )
        snapshots.append(snapshot)

    run = train_spiral(config, after_step=keep)
    return Playback(member_data(run.data, 0), snapshots)


def _channel_features(net: Ensemble, points: Tensor, channel: int) -> Tensor:
    features = net.normalized_features(points)[:LAYERS]
    return torch.stack([feature[:, 0, channel] for feature in features])


def statistics_offsets(
    net: Ensemble, template: nn.Sequential, population: Tensor, batches: Tensor, channel: int
) -> Offsets:
    """Measure the statistics that one net has for batches, in units of its population's.

    As in training, each batch is normalized by its own statistics on its way to the next layer.

    Args:
        net: Of one member.
        template: A net of the member's layers.
        population: [N, 1, 2].
        batches: [rows, B, 2], one batch a column.
        channel: Whose statistics to return.

    Returns:
        Offsets; NaN where the channel has one value for the whole population.
    """
    member = net.member(0, template)
    copies = Ensemble([member] * batches.size(1))  # one for each batch, side by side
    mean, var = _statistics(frozen(copies, batches), channel)
    true_mean, true_var = _statistics(frozen(net, population), channel)
    unit = true_var.sqrt().where(true_var > 0, torch.nan)
    return Offsets((mean - true_mean) / unit, var.sqrt() / unit)


def _statistics(net: Ensemble, channel: int) -> tuple[Tensor, Tensor]:
    """Return one channel's running mean and variance in the first normalizations, [3, E] each."""
    norms = [layer for layer in net.layers if isinstance(layer, _BatchNorm)][:LAYERS]
    return tuple(
        torch.stack([getattr(norm, name).unflatten(0, (net.members, -1)) for norm in norms])[
            ..., channel
        ]
        for name in ("running_mean", "running_var")
    )


def _random_batches(config: SpiralTraining, data: SpiralData, count: int) -> tuple[Tensor, Tensor]:
    """Return labeled batches and combined ones, [rows, count, 2], the same at each call."""
    generator = torch.Generator().manual_seed(config.seeds[0])

    def draw(points: Tensor, size: int) -> Tensor:
        return torch.cat([random_batch(points, size, generator) for _ in range(count)], 1)

    labeled = draw(data.labeled, config.labeled_batch)
    return labeled, torch.cat([labeled, draw(data.unlabeled, config.unlabeled_batch)])
