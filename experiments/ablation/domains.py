"""The four domains of the ablation: the toy's spiral, digits, synthetic drives and a room.

A domain is a problem: data of some seeds, a net, losses and measures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.ablation.methods import AblationConfig, Pool
from experiments.common.training import evaluating, initialized_by
from experiments.depth.data import DepthData, EveryLabels, Frames
from experiments.depth.evaluate import evaluate_frames, to_input
from experiments.toy.ensemble import Ensemble
from experiments.toy.spiral import SpiralNet, make_spiral, split_spiral
from ubnlib.dispnet import DispNet
from ubnlib.losses import multiscale_depth_loss


class Problem(Protocol):
    """What a domain offers.

    Where nets of several seeds stand side by side, tensors have the seeds in their second
    dimension, as in `experiments.toy.ensemble`.
    """

    seeds: Sequence[int]
    side_by_side: bool = False
    _pools: Mapping[Pool, Tensor]  # the rows of each, or where they are
    _classes: Tensor  # of labeled rows

    def net(self) -> nn.Module:
        """Return a new net with batch normalization; weights are from torch's generator."""

    def size(self, pool: Pool) -> int:
        """Return how many rows a pool has, of one seed."""
        return len(self._pools[pool])

    def inputs(self, pool: Pool, rows: Tensor) -> Tensor:
        """Return rows of a pool as the net's input."""
        return self._pools[pool][rows]

    def targets(self, rows: Tensor) -> Tensor:
        """Return what the loss needs to know of labeled rows."""
        return self._classes[rows]

    def loss(self, output: Any, targets: Tensor) -> Tensor:
        """Return the loss of labeled rows."""

    def disagreement(self, student: Any, teacher: Any) -> Tensor:
        """Return how far two outputs for the same rows are apart: the mean teacher's loss."""

    def disturbed(self, inputs: Tensor) -> Tensor:
        """Return inputs with the noise under which a mean teacher asks for the same output."""

    def joined(self, outputs: Any, first: int) -> tuple[Any, Any]:
        """Cut an output behind its first rows."""
        return outputs[:first], outputs[first:]

    def measure(self, net: nn.Module) -> dict[str, list[float]]:
        """Return what an evaluated net is worth, for each seed; `accuracy` is the main one."""

    def refreshing(self) -> Iterator[Tensor]:
        """Yield training inputs, labeled and unlabeled, to measure statistics anew."""
        yield self._pools["everything"]


@dataclass(frozen=True, eq=False)
class Scenes:
    """Frames of a depth domain, and others of the same size from another distribution."""

    data: DepthData
    other: Frames
    depth_range: dict[str, float]  # DispNet's `scale` and `min_disparity`, if not the paper's


def problems_of(config: AblationConfig, scenes: Scenes | None) -> Iterator[Problem]:
    """Yield what a run trains on: one problem for nets side by side, else one a seed.

    Raises:
        ValueError: A depth run has no frames, or others than its configuration names.
    """
    labels = config.setting.labels
    if config.domain == "spiral":
        yield SpiralProblem(labels, config.seeds)
        return
    if config.domain == "digits":
        judged = "validation" if config.stage == "tuning" else "test"
        yield from (DigitsProblem(labels, seed, judged) for seed in config.seeds)
        return
    given = None if scenes is None else scenes.data.fingerprint
    if given != config.data:
        raise ValueError(
            f"The run on {config.domain!r} is for frames {config.data!r} and those given are "
            f"{given!r}: give its frames, or make its configuration with data=data.fingerprint."
        )
    for seed in config.seeds:
        yield DepthProblem(scenes.data, labels, seed, scenes.other, scenes.depth_range)


class SpiralProblem(Problem):
    """The toy of section 3.3: two arms, few labeled points on each; all seeds side by side."""

    UNLABELED = 200  # points a class
    OTHER_NOISE = 2.0  # of the points of another distribution; turns are 1.4 apart
    JITTER = 0.1  # standard deviation of the mean teacher's noise
    side_by_side = True

    def __init__(self, labels: int, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)
        number = self.UNLABELED
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        parts = [split_spiral(labels, number, 0.0, generator) for generator in generators]
        labeled, classes, unlabeled = zip(*parts, strict=True)
        other = [make_spiral(number, self.OTHER_NOISE, generator)[0] for generator in generators]
        self._pools = {
            "labeled": torch.stack(labeled, 1),
            "unlabeled": torch.stack(unlabeled, 1),
            "other": torch.stack(other, 1),
        }
        self._pools["everything"] = torch.cat([self._pools["labeled"], self._pools["unlabeled"]])
        self._classes = classes[0]

    def net(self) -> Ensemble:
        """Return the paper's net for each seed."""
        nets = []
        for seed in self.seeds:
            with initialized_by(seed):
                nets.append(SpiralNet())
        return Ensemble(nets)

    def inputs(self, pool: Pool, rows: Tensor) -> Tensor:
        """Return points [n, seeds, 2]."""
        return self._pools[pool][rows, torch.arange(len(self.seeds))]

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the seeds' losses, so that each net has its own gradient."""
        return F.cross_entropy(output.movedim(-1, 1), targets, reduction="none").mean(0).sum()

    def disagreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the sum over seeds of the mean square distance of probabilities."""
        square = (student.softmax(-1) - teacher.softmax(-1)).square()
        return square.sum(-1).mean(0).sum()

    def disturbed(self, inputs: Tensor) -> Tensor:
        """Move points a little."""
        return inputs + self.JITTER * torch.randn_like(inputs)

    def measure(self, net: nn.Module) -> dict[str, list[float]]:
        """Return the accuracy on a dense spiral, and on the training's own points."""
        points, classes = make_spiral(2000, 0.0)
        dense = points[:, None].expand(-1, len(self.seeds), -1)
        sets = {
            "accuracy": (dense, classes),
            "labeled_accuracy": (self._pools["labeled"], self._classes),
            "unlabeled_accuracy": (
                self._pools["unlabeled"],
                torch.arange(2).repeat_interleave(self.UNLABELED),
            ),
        }
        with evaluating(net):
            return {
                name: (net(x).argmax(-1) == y[:, None]).float().mean(0).tolist()
                for name, (x, y) in sets.items()
            }


class DigitsProblem(Problem):
    """Handwritten digits: scikit-learn's 1,797 images of 8x8 pixels, few labeled in each class.

    500 images are for testing, and no run that chooses a setting sees them: it is judged by the 297
    validation images. The other 1,000 are for training.
    """

    TRAINING, VALIDATION = 1000, 297
    OTHER_NOISE = 1.0  # standard deviation of the noise on the images of another distribution
    JITTER = 0.2  # of the mean teacher's noise

    def __init__(self, labels: int, seed: int, judged: Literal["validation", "test"]) -> None:
        self.seeds = (seed,)
        images, classes = _digits()
        order = np.random.default_rng(seed).permutation(self.TRAINING)
        chosen = np.concatenate(
            [order[classes[order].numpy() == digit][:labels] for digit in range(10)]
        )
        if len(chosen) < 10 * labels:
            raise ValueError(f"labels is {labels}: some class has fewer training images.")
        others = np.setdiff1d(order, chosen)
        noise = torch.randn(images[others].shape, generator=torch.Generator().manual_seed(seed))
        self._pools = {
            "labeled": images[chosen],
            "unlabeled": images[others],
            "everything": images[: self.TRAINING],
            "other": images[others] + self.OTHER_NOISE * noise,
        }
        self._classes = classes[chosen]
        behind = self.TRAINING + self.VALIDATION
        held_out = slice(self.TRAINING, behind) if judged == "validation" else slice(behind, None)
        self._sets = {
            "accuracy": (images[held_out], classes[held_out]),
            "labeled_accuracy": (images[chosen], classes[chosen]),
            "unlabeled_accuracy": (images[others], classes[others]),
        }

    def net(self) -> nn.Sequential:
        """Return four convolutions, each followed by normalization and ReLU, and a classifier."""
        blocks = [_block(1, 8), _block(8, 16), nn.MaxPool2d(2), _block(16, 16), _block(16, 32)]
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the cross entropy."""
        return F.cross_entropy(output, targets)

    def disagreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean square distance of probabilities."""
        return (student.softmax(-1) - teacher.softmax(-1)).square().sum(-1).mean()

    def disturbed(self, inputs: Tensor) -> Tensor:
        """Add noise, and shift all images by up to a pixel."""
        shift = torch.randint(-1, 2, (2,)).tolist()
        return inputs.roll(shift, (-2, -1)) + self.JITTER * torch.randn_like(inputs)

    def measure(self, net: nn.Module) -> dict[str, list[float]]:
        """Return the accuracy on held-out and on training images."""
        with evaluating(net):
            return {
                name: [(net(x).argmax(1) == y).float().mean().item()]
                for name, (x, y) in self._sets.items()
            }


def _block(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Return the images [1797, 1, 8, 8] in [-1, 1] and their classes, in an order fixed once."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = torch.from_numpy(bunch.images[order]).float()[:, None] / 8 - 1
    return images, torch.from_numpy(bunch.target[order])


@dataclass(frozen=True, eq=False)
class DepthProblem(Problem):
    """A small DispNet on any frames with depth maps, of which every `labels`-th keeps its map."""

    JITTER = 0.05  # standard deviation of the mean teacher's noise, of a range of 1
    JUDGED = 64  # frames of a training part that are measured

    data: DepthData
    labels: int
    seed: int
    other: Frames
    depth_range: dict[str, float]

    @property
    def seeds(self) -> tuple[int]:
        """The one seed."""
        return (self.seed,)

    @cached_property
    def _pools(self) -> dict[Pool, Tensor]:
        labeled, unlabeled = self.data.labeled(EveryLabels(k=self.labels))
        positions = {"labeled": labeled, "unlabeled": unlabeled, "everything": self.data.train}
        positions["other"] = range(len(self.other))
        return {pool: torch.as_tensor(rows) for pool, rows in positions.items()}

    def net(self) -> DispNet:
        """Return a DispNet of a quarter of the width and four halvings.

        The predicting convolutions begin small, so that no sigmoid is saturated at the start: some
        seeds would otherwise spend most of a short training on that plateau, whatever the method.
        """
        net = DispNet(width=0.25, levels=4, **self.depth_range)
        with torch.no_grad():
            for name, layer in net.named_children():
                if name.startswith("disp"):
                    layer.weight.mul_(0.1)
        return net

    def inputs(self, pool: Pool, rows: Tensor) -> Tensor:
        """Return images [n, 3, H, W]."""
        frames = self.other if pool == "other" else self.data.frames
        return to_input(frames.batch(self._pools[pool][rows], depth=False).images)

    def targets(self, rows: Tensor) -> Tensor:
        """Return depth maps [n, H, W]."""
        return self.data.frames.batch(self._pools["labeled"][rows]).depth()

    def loss(self, output: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Return the multi-resolution loss."""
        return multiscale_depth_loss(output, targets)

    def disagreement(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
        """Return the mean distance of the finest depth maps, in meters as the loss."""
        return (student[0] - teacher[0]).abs().mean()

    def disturbed(self, inputs: Tensor) -> Tensor:
        """Add noise, and change each image's brightness and contrast a little."""
        contrast = 1 + 0.2 * torch.randn(len(inputs), 1, 1, 1)
        brightness = 0.1 * torch.randn(len(inputs), 1, 1, 1)
        return inputs * contrast + brightness + self.JITTER * torch.randn_like(inputs)

    def joined(
        self, outputs: tuple[Tensor, ...], first: int
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Cut the outputs of all resolutions behind their first rows."""
        return tuple(o[:first] for o in outputs), tuple(o[first:] for o in outputs)

    def measure(self, net: nn.Module) -> dict[str, list[float]]:
        """Return delta < 1.25 on test frames, and on some labeled and unlabeled ones."""
        parts = {"accuracy": torch.as_tensor(self.data.test)}
        for pool in ("labeled", "unlabeled"):
            rows = self._pools[pool]
            few = torch.linspace(0, len(rows) - 1, min(self.JUDGED, len(rows))).long()
            parts[f"{pool}_accuracy"] = rows[few]
        return {
            name: [evaluate_frames(net, self.data.frames, rows.tolist()).means["delta1"]]
            for name, rows in parts.items()
        }

    def refreshing(self) -> Iterator[Tensor]:
        """Yield about 512 training images, from all over the training set."""
        positions = self._pools["everything"]
        for part in positions[:: max(1, len(positions) // 512)].split(64):
            yield to_input(self.data.frames.batch(part, depth=False).images)
