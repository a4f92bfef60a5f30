"""Handwritten digits as a domain of the ablation: scikit-learn's 1,797 images of 8x8 pixels.

500 images are for testing, and no run that chooses a setting sees them: it is judged by the 297
validation images. The other 1,000 are for training, of which a few a class have labels.
"""

from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.ablation.methods import Pool
from experiments.common.training import evaluating

Judged = Literal["validation", "test"]
TRAINING, VALIDATION = 1000, 297
OTHER_NOISE = 1.0  # standard deviation of the noise on the images of another distribution
JITTER = 0.2  # of the mean teacher's noise


class DigitsProblem:
    """Ten classes, few labeled images in each.

    Args:
        labels: Labeled images a class.
        seed: Of the choice of labeled images, of weights and batches.
        judged: Which images the net is measured on.
    """

    side_by_side = False

    def __init__(self, labels: int, seed: int, judged: Judged) -> None:
        self.seeds = (seed,)
        images, classes = _digits()
        order = np.random.default_rng(seed).permutation(TRAINING)
        chosen = np.concatenate(
            [order[classes[order].numpy() == digit][:labels] for digit in range(10)]
        )
        if len(chosen) < 10 * labels:
            raise ValueError(f"labels is {labels}: some class has fewer training images.")
        others = np.setdiff1d(order, chosen)
        generator = torch.Generator().manual_seed(seed)
        self._pools = {
            "labeled": images[chosen],
            "unlabeled": images[others],
            "everything": images[:TRAINING],
            "other": images[others]
            + OTHER_NOISE * torch.randn(images[others].shape, generator=generator),
        }
        self._classes = classes[chosen]
        behind = TRAINING + VALIDATION
        held_out = slice(TRAINING, behind) if judged == "validation" else slice(behind, None)
        self._sets = {
            "accuracy": (images[held_out], classes[held_out]),
            "labeled_accuracy": (images[chosen], classes[chosen]),
            "unlabeled_accuracy": (images[others], classes[others]),
        }

    def net(self) -> nn.Sequential:
        """Return four convolutions, each followed by normalization and ReLU, and a classifier."""
        return nn.Sequential(
            _block(1, 8),
            _block(8, 16),
            nn.MaxPool2d(2),
            _block(16, 16),
            _block(16, 32),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )

    def size(self, pool: Pool) -> int:
        """Return how many images a pool has."""
        return len(self._pools[pool])

    def inputs(self, pool: Pool, rows: Tensor) -> Tensor:
        """Return images [n, 1, 8, 8]."""
        return self._pools[pool][rows]

    def targets(self, rows: Tensor) -> Tensor:
        """Return classes [n]."""
        return self._classes[rows]

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the cross entropy."""
        return F.cross_entropy(output, targets)

    def disagreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean square distance of probabilities."""
        return (student.softmax(-1) - teacher.softmax(-1)).square().sum(-1).mean()

    def disturbed(self, inputs: Tensor) -> Tensor:
        """Add noise, and shift all images by up to a pixel."""
        shift = torch.randint(-1, 2, (2,)).tolist()
        return inputs.roll(shift, (-2, -1)) + JITTER * torch.randn_like(inputs)

    def joined(self, outputs: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Cut an output behind its first rows."""
        return outputs[:first], outputs[first:]

    def measure(self, net: nn.Module) -> dict[str, list[float]]:
        """Return the accuracy on held-out and on training images."""
        with evaluating(net):
            return {
                name: [(net(x).argmax(1) == y).float().mean().item()]
                for name, (x, y) in self._sets.items()
            }

    def refreshing(self) -> Iterator[Tensor]:
        """Yield all training images."""
        yield self._pools["everything"]


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
