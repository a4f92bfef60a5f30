"""The toy experiment of section 3.3: train the spiral's net, and look at what it has learned."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ubnlib.records import Config, Result, recorded
from ubnlib.spiral import SpiralData, SpiralNet, make_spiral, split_spiral
from ubnlib.spiral_analysis import (
    auroc,
    distribution_gap,
    implicit_augmentation,
    resampled_probabilities,
    tangent_share,
)
from ubnlib.training import (
    Batch,
    BNConfig,
    NormConfig,
    evaluating,
    fit,
    initialized_by,
    random_batches,
)


class SpiralConfig(Config):
    """One run on the spiral; the paper gives the point counts and the number of layers only."""

    experiment: Literal["spiral"] = "spiral"
    norm: NormConfig = BNConfig()
    labeled_per_class: int = 25
    unlabeled_per_class: int = 200
    noise: float = 0.0
    width: int = 64
    labeled_batch: int = 16
    unlabeled_batch: int = 64
    learning_rate: float = 1e-2
    steps: int = 1000
    seed: int = 0


class SpiralRun(NamedTuple):
    """A trained net with the data that it was trained on."""

    net: SpiralNet
    data: SpiralData
    losses: list[float]


def spiral_data(config: SpiralConfig) -> SpiralData:
    """Return the training data of a run: the same for every normalization of one seed."""
    generator = torch.Generator().manual_seed(config.seed)
    return split_spiral(
        config.labeled_per_class, config.unlabeled_per_class, config.noise, generator
    )


def train_spiral(config: SpiralConfig, *, progress: str | None = None) -> SpiralRun:
    """Train the net; runs of one seed share data, initial weights and labeled batches."""
    data = spiral_data(config)
    with initialized_by(config.seed):
        net = config.norm.apply(SpiralNet(config.width))
    optimizer = torch.optim.Adam(net.parameters(), lr=config.learning_rate, fused=True)
    batches = _batches(config, data)
    losses = fit(net, optimizer, cross_entropy, batches, progress=progress, total=config.steps)
    return SpiralRun(net, data, losses)


def _batches(config: SpiralConfig, data: SpiralData) -> Iterator[Batch]:
    labeled, unlabeled = (torch.Generator().manual_seed(config.seed) for _ in range(2))
    rows = random_batches(config.labeled_batch, len(data.labeled), labeled)
    others = random_batches(config.unlabeled_batch, len(data.unlabeled), unlabeled)
    for _ in range(config.steps):
        row = next(rows)
        other = data.unlabeled[next(others)] if config.norm.kind == "ubn" else None
        yield Batch(data.labeled[row], data.labels[row], other)


@recorded
def run_spiral(config: SpiralConfig, *, progress: str | None = None) -> Result:
    """Train one net and measure what section 3.3 claims of it."""
    net, data, losses = train_spiral(config, progress=progress)
    metrics = {
        "test_accuracy": accuracy(net, *dense_spiral(config)),
        "labeled_accuracy": accuracy(net, data.labeled, data.labels),
        "final_loss": sum(losses[-50:]) / len(losses[-50:]),
        "feature_gap_ratio": feature_gap_ratio(net, data, config.seed),
    }
    if config.norm.kind == "ubn":
        metrics |= _reference_batch_metrics(net, data, config)
    metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return Result(metrics, {"loss": losses[:: max(1, config.steps // 100)]})


def feature_gap_ratio(net: SpiralNet, data: SpiralData, seed: int) -> float:
    """Return how much further labeled features lie from unlabeled ones than chance has it.

    Chance is the distance of as many random unlabeled points to the rest of them (Figure 3).
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.unlabeled), generator=generator)
    some, rest = data.unlabeled[order].tensor_split([len(data.labeled)])
    chance = distribution_gap(net, some, rest)["wasserstein"].mean()
    return distribution_gap(net, data.labeled, rest)["wasserstein"].mean() / chance


def _reference_batch_metrics(
    net: SpiralNet, data: SpiralData, config: SpiralConfig
) -> dict[str, float]:
    """Measure Figures 4 and 5: what resampled unlabeled batches do to predictions."""
    batch = config.unlabeled_batch
    points, labels = dense_spiral(config, points_per_class=500)
    probabilities = resampled_probabilities(
        net, points, data.unlabeled, samples=30, batch=batch, seed=config.seed
    )
    wrong = (probabilities.mean(0) > 0.5).long() != labels
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(data.unlabeled), generator=generator)
    before, after = data.unlabeled[order[:batch]], data.unlabeled[order[batch : 2 * batch]]
    moved, converged = implicit_augmentation(net, data.labeled, before, after)
    shares = tangent_share(data.labeled, moved)[converged]
    return {
        "uncertainty_auroc": auroc(probabilities.std(0), wrong),
        "augmentation_tangent_share": shares.nanmean().item(),
        "augmentation_converged": converged.float().mean().item(),
    }


def accuracy(net: SpiralNet, points: Tensor, labels: Tensor) -> float:
    """Return the share of points [N, 2] whose class [N] is predicted in evaluation mode."""
    with evaluating(net):
        return (net(points).argmax(1) == labels).float().mean().item()


def dense_spiral(config: SpiralConfig, points_per_class: int = 2000) -> tuple[Tensor, Tensor]:
    """Return test points and labels: a dense spiral with the run's noise, drawn apart from it."""
    generator = torch.Generator().manual_seed(10_000 + config.seed)
    return make_spiral(points_per_class, config.noise, generator)
