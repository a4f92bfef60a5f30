"""The toy experiment of section 3.3: train the spiral's nets, the seeds side by side."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.common.records import Config, Result, recorded
from experiments.common.training import BNConfig, NormConfig, initialized_by, random_batches
from experiments.toy.ensemble import Ensemble
from experiments.toy.figure2_boundaries import accuracy, regions, stretches
from experiments.toy.spiral import SpiralData, SpiralNet, make_spiral, split_spiral
from ubnlib.convert import convert_ubn
from ubnlib.forward import collecting, ubn_forward, ubn_layers


class SpiralTraining(Config):
    """How nets are trained on the spiral; the paper gives point counts and depth only.

    docs/toy_study.md argues the defaults.
    """

    norm: NormConfig = BNConfig()
    labeled_per_class: int = Field(default=25, ge=1)
    unlabeled_per_class: int = Field(default=200, ge=1)
    labeled_at: Literal["random"] = "random"  # others were tried (docs/toy_study.md); in keys
    noise: float = Field(default=0.0, ge=0)
    width: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    optimizer: Literal["adam"] = "adam"  # the same
    learning_rate: float = Field(default=1e-2, ge=0)
    labeled_batch: int = Field(default=32, ge=2)  # all labeled points where there are fewer
    unlabeled_batch: int = Field(default=64, ge=2)
    unlabeled_from: Literal["unlabeled", "labeled"] = "unlabeled"  # labeled: the noise alone
    steps: int = Field(default=1000, ge=1)
    initialization: int = 0  # another one draws other weights and batches for the same data
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)

    def generators(self, offset: int = 0) -> list[torch.Generator]:
        """Return a generator for each seed, so that none depends on the nets beside it."""
        return [torch.Generator().manual_seed(offset + seed) for seed in self.seeds]


class SpiralConfig(SpiralTraining):
    """One run: what is trained, and measured for Figure 2."""

    version: ClassVar[int] = 1
    experiment: Literal["spiral"] = "spiral"


class SpiralRun(NamedTuple):
    """Trained nets side by side, one a seed, with their data and the loss of each, [steps, E]."""

    net: Ensemble
    data: SpiralData
    losses: Tensor


def spiral_data(config: SpiralTraining) -> SpiralData:
    """Return the training data of each seed, the same whatever the method: points [N, E, 2]."""
    drawn = config.labeled_per_class, config.unlabeled_per_class, config.noise
    parts = [split_spiral(*drawn, generator) for generator in config.generators()]
    labeled, labels, unlabeled = zip(*parts, strict=True)
    return SpiralData(torch.stack(labeled, 1), labels[0], torch.stack(unlabeled, 1))


def member_data(data: SpiralData, index: int) -> SpiralData:
    """Return the data of one seed, points [N, 2]."""
    return SpiralData(data.labeled[:, index], data.labels, data.unlabeled[:, index])


def train_spiral(
    config: SpiralTraining, *, after_step: Callable[[int, Ensemble, SpiralData], None] | None = None
) -> SpiralRun:
    """Train a net for each seed; runs of one seed share data, initial weights and labeled batches.

    `after_step` is called with the number of steps made, the nets and their data: before the first
    step with 0, and after each.

    Raises:
        FloatingPointError: The loss is not finite; names the step.
    """
    data = spiral_data(config)
    nets = []
    for seed in _weight_seeds(config):
        with initialized_by(seed):
            nets.append(SpiralNet(config.width, dropout=config.dropout))
    net = config.norm.apply(Ensemble(nets))
    optimizer = torch.optim.Adam(net.parameters(), lr=config.learning_rate, fused=True)
    losses: list[Tensor] = []
    if after_step is not None:
        after_step(0, net, data)
    with initialized_by(_weight_seeds(config)[0]):  # dropout draws from torch's own generator
        for step, (labeled, target, unlabeled) in enumerate(_batches(config, data), start=1):
            # Worth the second thread with more numbers than this: measured with the spiral's net.
            large = unlabeled is not None and labeled.numel() + unlabeled.numel() >= 20_000
            output = ubn_forward(net, labeled, unlabeled, interleave=large)
            each = cross_entropy(output.movedim(-1, 1), target, reduction="none").mean(0)
            if not each.isfinite().all():
                raise FloatingPointError(
                    f"The loss is {each.tolist()} at step {step}: lower the learning rate, or look "
                    "at the data of this step."
                )
            losses.append(each.detach())
            optimizer.zero_grad(set_to_none=True)
            each.sum().backward()  # each net's own gradient
            optimizer.step()
            if after_step is not None:
                after_step(step, net, data)
    return SpiralRun(net, data, torch.stack(losses))


def _weight_seeds(config: SpiralTraining) -> list[int]:
    return [seed + 1_000_000 * config.initialization for seed in config.seeds]


def _batches(
    config: SpiralTraining, data: SpiralData
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield each seed's own labeled batches [N, E, 2], labels, and unlabeled ones, None for BN."""

    def indices(size: int, of: int) -> Iterator[Tensor]:
        generators = [torch.Generator().manual_seed(seed) for seed in _weight_seeds(config)]
        each = [random_batches(min(size, of), of, generator) for generator in generators]
        while True:
            yield torch.stack([next(batches) for batches in each], 1)

    members = torch.arange(len(config.seeds))
    pool = data.unlabeled if config.unlabeled_from == "unlabeled" else data.labeled
    rows = indices(config.labeled_batch, len(data.labeled))
    others = indices(config.unlabeled_batch, len(pool))
    for _ in range(config.steps):
        row = next(rows)
        other = pool[next(others), members] if config.norm.kind == "ubn" else None
        yield data.labeled[row, members], data.labels[row], other


def dense_spiral(config: SpiralTraining, points_per_class: int = 2000) -> tuple[Tensor, Tensor]:
    """Return test points [N, E, 2] and labels [N]: dense spirals, drawn apart from the training."""
    spirals = [
        make_spiral(points_per_class, config.noise, generator)
        for generator in config.generators(10_000)
    ]
    return torch.stack([points for points, _ in spirals], 1), spirals[0][1]


@recorded
def run_spiral(config: SpiralConfig) -> Result:
    """Train nets and measure what Figure 2 shows."""
    net, data, losses = train_spiral(config)
    metrics = {
        "test_accuracy": accuracy(net, *dense_spiral(config)),
        "labeled_accuracy": accuracy(net, data.labeled, data.labels),
        "regions": regions(net),
        **stretches(net, data),
        "final_loss": losses[-50:].mean(0),
    }
    curve = losses[:: max(1, config.steps // 20)].T.tolist()
    return Result(
        {name: values.tolist() for name, values in metrics.items()},
        {"loss": [[round(loss, 4) for loss in each] for each in curve]},
    )


def frozen(model: Ensemble, reference: Tensor) -> Ensemble:
    """Return a copy in eval mode whose running statistics are those of a reference batch [M, ...].

    They are equation 4's: each layer's mean and biased variance over the batch as it passes through
    the model with its normalization layers, and only them, in training mode. So the copy is a plain
    function of each of its inputs: that of `monte_carlo_predictions` with this batch.
    """
    plain = copy.deepcopy(model)
    collector = convert_ubn(copy.deepcopy(model)).eval()
    for layer in ubn_layers(collector):
        layer.train()
    with collecting(collector):
        collector(reference)
    norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm1d)]
    with torch.no_grad():
        for norm, layer in zip(norms, ubn_layers(collector), strict=True):
            ((union, *_),) = layer.last_step
            norm.running_mean.copy_(union.mean)
            norm.running_var.copy_(union.var)
    return plain.eval().requires_grad_(False)


def random_batch(points: Tensor, size: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Return random points [size, E, 2] of [N, E, 2], each net's by its generator; at most all."""
    rows = [torch.randperm(len(points), generator=generator)[:size] for generator in generators]
    return points[torch.stack(rows, 1), torch.arange(len(generators))]
