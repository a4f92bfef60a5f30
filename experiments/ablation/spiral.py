"""The toy of section 3.3 as a domain of the ablation: nets of all seeds side by side."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.ablation.methods import Pool
from experiments.common.training import evaluating, initialized_by
from experiments.toy.ensemble import Ensemble
from experiments.toy.spiral import SpiralNet, make_spiral, split_spiral

UNLABELED = 200  # points a class
OTHER_NOISE = 2.0  # of the points of another distribution; turns are 1.4 apart
JITTER = 0.1  # standard deviation of the mean teacher's noise


class SpiralProblem:
    """Two arms, few labeled points on each.

    Args:
        labels: Labeled points a class.
        seeds: Of data, weights and batches.
    """

    side_by_side = True

    def __init__(self, labels: int, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        parts = [split_spiral(labels, UNLABELED, 0.0, generator) for generator in generators]
        labeled, classes, unlabeled = zip(*parts, strict=True)
        other = [make_spiral(UNLABELED, OTHER_NOISE, generator)[0] for generator in generators]
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

    def size(self, pool: Pool) -> int:
        """Return how many points a pool has, of one seed."""
        return len(self._pools[pool])

    def inputs(self, pool: Pool, rows: Tensor) -> Tensor:
        """Return points [n, seeds, 2]."""
        return self._pools[pool][rows, torch.arange(len(self.seeds))]

    def targets(self, rows: Tensor) -> Tensor:
        """Return classes [n, seeds]."""
        return self._classes[rows]

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the seeds' losses, so that each net has its own gradient."""
        return cross_entropy(output.movedim(-1, 1), targets, reduction="none").mean(0).sum()

    def disagreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the sum over seeds of the mean square distance of probabilities."""
        square = (student.softmax(-1) - teacher.softmax(-1)).square()
        return square.sum(-1).mean(0).sum()

    def disturbed(self, inputs: Tensor) -> Tensor:
        """Move points a little."""
        return inputs + JITTER * torch.randn_like(inputs)

    def joined(self, outputs: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Cut an output behind its first rows."""
        return outputs[:first], outputs[first:]

    def measure(self, net: nn.Module) -> dict[str, list[float]]:
        """Return the accuracy on a dense spiral, and on the training's own points."""
        points, classes = make_spiral(2000, 0.0)
        dense = points[:, None].expand(-1, len(self.seeds), -1)
        of_unlabeled = torch.arange(2).repeat_interleave(UNLABELED)
        sets = {
            "accuracy": (dense, classes),
            "labeled_accuracy": (self._pools["labeled"], self._classes),
            "unlabeled_accuracy": (self._pools["unlabeled"], of_unlabeled),
        }
        with evaluating(net):
            return {
                name: (net(x).argmax(-1) == y[:, None]).float().mean(0).tolist()
                for name, (x, y) in sets.items()
            }

    def refreshing(self) -> Iterator[Tensor]:
        """Yield all training points."""
        yield self._pools["everything"]
