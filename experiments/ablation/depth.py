"""Depth as a domain of the ablation: synthetic drives, or any frames with depth maps."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from experiments.ablation.methods import Pool
from experiments.depth.data import DepthData, EveryLabels, Frames
from experiments.depth.evaluate import evaluate_frames, to_input
from ubnlib.dispnet import DispNet
from ubnlib.losses import multiscale_depth_loss

JITTER = 0.05  # standard deviation of the mean teacher's noise, of a range of 1
JUDGED = 64  # frames of a training part that are measured


@dataclass(frozen=True, eq=False)
class DepthProblem:
    """A small DispNet, one depth map in so many.

    Args:
        data: The frames.
        labels: Every so many training frame keeps its depth map.
        seed: Of weights and batches.
        other: Frames of another distribution.
        depth_range: DispNet's `scale` and `min_disparity`.
    """

    data: DepthData
    labels: int
    seed: int
    other: Frames | None = None
    depth_range: dict[str, float] = field(default_factory=dict)
    side_by_side = False

    @property
    def seeds(self) -> tuple[int]:
        """The one seed."""
        return (self.seed,)

    @cached_property
    def _positions(self) -> dict[Pool, Tensor]:
        labeled, unlabeled = self.data.labeled(EveryLabels(k=self.labels))
        positions = {"labeled": labeled, "unlabeled": unlabeled, "everything": self.data.train}
        if self.other is not None:
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

    def size(self, pool: Pool) -> int:
        """Return how many frames a pool has."""
        return len(self._positions[pool])

    def inputs(self, pool: Pool, rows: Tensor) -> Tensor:
        """Return images [n, 3, H, W]."""
        frames = self.other if pool == "other" else self.data.frames
        return to_input(frames.batch(self._positions[pool][rows], depth=False).images)

    def targets(self, rows: Tensor) -> Tensor:
        """Return depth maps [n, H, W]."""
        return self.data.frames.batch(self._positions["labeled"][rows]).depth()

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
        return inputs * contrast + brightness + JITTER * torch.randn_like(inputs)

    def joined(
        self, outputs: tuple[Tensor, ...], first: int
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Cut an output behind its first rows."""
        return tuple(o[:first] for o in outputs), tuple(o[first:] for o in outputs)

    def measure(self, net: nn.Module) -> dict[str, list[float]]:
        """Return delta < 1.25 on test frames, and on some labeled and unlabeled ones."""
        parts = {"accuracy": torch.as_tensor(self.data.test)}
        for pool in ("labeled", "unlabeled"):
            rows = self._positions[pool]
            few = torch.linspace(0, len(rows) - 1, min(JUDGED, len(rows))).long()
            parts[f"{pool}_accuracy"] = rows[few]
        return {
            name: [evaluate_frames(net, self.data.frames, rows.tolist()).means["delta1"]]
            for name, rows in parts.items()
        }

    def refreshing(self) -> Iterator[Tensor]:
        """Yield about 512 training images, from all over the training set."""
        positions = self._positions["everything"]
        for part in positions[:: max(1, len(positions) // 512)].split(64):
            yield to_input(self.data.frames.batch(part, depth=False).images)
