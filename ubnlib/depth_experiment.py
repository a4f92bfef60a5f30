"""The depth experiment of section 4: DispNet trained with few depth maps and all images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ubnlib.depth_loss import Downscale, LossNorm, multiscale_depth_loss
from ubnlib.dispnet import DispNet
from ubnlib.evaluation import Evaluation, evaluate_depth
from ubnlib.kitti import FrameKey, LabeledUnlabeledLoader, PackedDepth, keep_every, keep_random
from ubnlib.kitti.framesets import compact, digest
from ubnlib.records import Config, Result, recorded
from ubnlib.training import (
    Batch,
    BNConfig,
    NormConfig,
    default_device,
    evaluating,
    fit,
    initialized_by,
)
from ubnlib.weights import save_weights


class EveryLabels(Config):
    """Keep the depth maps of a sensor whose frame rate is k times lower, as the paper does."""

    kind: Literal["every"] = "every"
    k: int
    phase: int = 0

    def choose(self, keys: Sequence[FrameKey]) -> np.ndarray:
        """Return which frames keep their depth map: [len(keys)] bool."""
        return keep_every(keys, self.k, self.phase)


class RandomLabels(Config):
    """Keep one depth map in k of each drive and camera at random."""

    kind: Literal["random"] = "random"
    k: int
    seed: int = 0

    def choose(self, keys: Sequence[FrameKey]) -> np.ndarray:
        """Return which frames keep their depth map: [len(keys)] bool."""
        return keep_random(keys, self.k, self.seed)


LabelsConfig = Annotated[EveryLabels | RandomLabels, Field(discriminator="kind")]


class DepthConfig(Config):
    """One depth run. Unstated in the paper: the loss's norm and how targets are downscaled."""

    experiment: Literal["depth"] = "depth"
    data: str  # fingerprint of the frames, so that a record says what it saw
    norm: NormConfig = BNConfig()
    labels: LabelsConfig
    width: float = 1.0
    scale: float = 0.4
    min_disparity: float = 0.0125
    loss: LossNorm = "l1"
    downscale: Downscale = "nearest_surface"
    labeled_batch: int = 8
    unlabeled_batch: int = 24
    learning_rate: float = 2e-4
    steps: int
    evaluations: int = 4  # points of the accuracy curves
    seed: int = 0


@dataclass(frozen=True, eq=False)
class DepthData:
    """Packed frames, and which of them are for training and for testing.

    Args:
        frames: The packed set.
        train_keys: Frames to train on, labeled or not.
        test_keys: Frames to test on.

    Raises:
        ValueError: If a frame is on both sides, or one side is empty.
        KeyError: If a frame is not in the packed set.
    """

    frames: PackedDepth
    train_keys: Sequence[FrameKey]
    test_keys: Sequence[FrameKey]

    def __post_init__(self):
        both = set(self.train_keys) & set(self.test_keys)
        if both or not self.train_keys or not self.test_keys:
            raise ValueError(
                f"There are {len(self.train_keys)} frames to train on, {len(self.test_keys)} to "
                f"test on, and {len(both)} on both sides: expected some on each and none on both."
            )

    @cached_property
    def train(self) -> np.ndarray:
        """Positions of the training frames in the packed set, [n] int64."""
        return np.array([self.frames.index(key) for key in self.train_keys])

    @cached_property
    def test(self) -> np.ndarray:
        """Positions of the test frames in the packed set, [n] int64."""
        return np.array([self.frames.index(key) for key in self.test_keys])

    @cached_property
    def fingerprint(self) -> str:
        """What data this is, for `DepthConfig.data`."""
        parts = self.frames.fingerprint, digest(self.train_keys), digest(self.test_keys)
        return "-".join(parts)

    def labeled(self, labels: LabelsConfig) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of training frames that keep their depth map, and of the others."""
        kept = labels.choose(self.train_keys)
        return self.train[kept], self.train[~kept]


def to_input(images: Tensor) -> Tensor:
    """Return uint8 images as the network's float input, in [-0.5, 0.5], where they are."""
    return images.to(torch.float32, memory_format=torch.contiguous_format) / 255 - 0.5


def train_depth(
    config: DepthConfig, data: DepthData, *, progress: str | None = None, workers: int = 0
) -> tuple[DispNet, dict[str, list[float]]]:
    """Train DispNet, on a GPU if there is one; runs of a seed share weights and labeled batches.

    All runs make the same number of optimizer steps, so that fewer labels do not mean less
    training, and batch normalization never sees an unlabeled image.

    Args:
        config: The run.
        data: Its data.
        progress: Label of a progress bar; None shows none.
        workers: Processes that read batches ahead; the result does not depend on them.

    Returns:
        The net, and curves: the loss of each step, and accuracies (delta < 1.25) of labeled,
        unlabeled and test frames at `config.evaluations` points.

    Raises:
        ValueError: The data is not that of the configuration.
        FloatingPointError: The loss is not finite.
    """
    if config.data != data.fingerprint:
        raise ValueError(
            f"The configuration is for data {config.data} and the frames given are "
            f"{data.fingerprint}: make the configuration with data=data.fingerprint."
        )
    with initialized_by(config.seed):
        net = DispNet(config.scale, config.min_disparity, config.width)
    device = default_device()
    config.norm.apply(net).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.learning_rate, fused=True)
    accuracies: dict[str, list[float]] = {"step": []}
    every = max(1, config.steps // max(1, config.evaluations))

    def evaluate(step: int) -> None:
        if step % every == 0:
            accuracies["step"].append(step)
            for name, value in accuracy_of_parts(net, config, data).items():
                accuracies.setdefault(name, []).append(value)

    def criterion(predictions: tuple[Tensor, ...], target: Tensor) -> Tensor:
        return multiscale_depth_loss(predictions, target, mode=config.downscale, norm=config.loss)

    losses = fit(
        net,
        optimizer,
        criterion,
        _batches(config, data, device, workers),
        progress=progress,
        total=config.steps,
        after_step=evaluate,
    )
    return net, {"loss": losses, **accuracies}


def _batches(
    config: DepthConfig, data: DepthData, device: torch.device, workers: int
) -> Iterator[Batch]:
    labeled, unlabeled = data.labeled(config.labels)
    loader = LabeledUnlabeledLoader(
        data.frames,
        labeled,
        unlabeled if config.norm.kind == "ubn" else (),
        labeled_batch=config.labeled_batch,
        unlabeled_batch=config.unlabeled_batch,
        steps=config.steps,
        seed=config.seed,
        workers=workers,
        pin_memory=device.type == "cuda",
    )
    for rows, others in loader:
        rows = rows.to(device, non_blocking=True)
        other = None if others is None else to_input(others.images.to(device, non_blocking=True))
        yield Batch(to_input(rows.images), rows.depth(), other)


def predict_depth(net: DispNet, images: Tensor, batch: int = 16) -> Tensor:
    """Return the finest depth maps [N, H, W], in meters, of uint8 images [N, 3, H, W]."""
    device = next(net.parameters()).device
    with evaluating(net):
        parts = [net(to_input(part.to(device)))[0][:, 0].cpu() for part in images.split(batch)]
    return torch.cat(parts)


def predict_frames(
    net: DispNet, frames: PackedDepth, indices: Iterable[int], batch: int = 16
) -> Iterator[tuple[FrameKey, Tensor]]:
    """Yield the key and the finest depth map, [H, W] in meters, of each of some frames."""
    for some in torch.tensor(list(indices)).split(batch):
        maps = predict_depth(net, frames.batch(some, depth=False).images, batch)
        yield from zip((frames.keys[index] for index in some), maps, strict=True)


def evaluate_frames(net: DispNet, frames: PackedDepth, indices: Iterable[int]) -> Evaluation:
    """Evaluate a net on packed frames at their own resolution, uncropped."""

    def lidar(key: FrameKey) -> Tensor:
        return frames.depth(frames.index(key))

    return evaluate_depth(predict_frames(net, frames, indices), lidar)


def accuracy_of_parts(
    net: DispNet, config: DepthConfig, data: DepthData, frames: int = 32
) -> dict[str, float]:
    """Return delta < 1.25 on labeled, unlabeled and test frames, at most `frames` of each.

    Labeled against unlabeled accuracy is where a reading of UBN goes wrong first.
    """
    labeled, unlabeled = data.labeled(config.labels)
    accuracies = {}
    for name, part in {"labeled": labeled, "unlabeled": unlabeled, "test": data.test}.items():
        if len(part):
            some = part[np.linspace(0, len(part) - 1, min(frames, len(part))).astype(int)]
            accuracies[name] = evaluate_frames(net, data.frames, some).means["delta1"]
    return accuracies


@recorded
def run_depth(
    config: DepthConfig,
    data: DepthData,
    *,
    weights: Path | None = None,
    progress: str | None = None,
    workers: int = 0,
) -> Result:
    """Train one net and measure it on all test frames, at the frames' resolution, uncropped.

    Where `weights` names a file, the trained net is kept there; see `ubnlib.weights`. The record
    names the labeled frames.
    """
    net, curves = train_depth(config, data, progress=progress, workers=workers)
    if weights is not None:
        save_weights(net, weights)
    metrics = evaluate_frames(net, data.frames, data.test).means
    parts = accuracy_of_parts(net, config, data)
    metrics |= {f"{name}_delta1": value for name, value in parts.items() if name != "test"}
    labeled, unlabeled = data.labeled(config.labels)
    metrics |= {"labeled_frames": float(len(labeled)), "unlabeled_frames": float(len(unlabeled))}
    curves["loss"] = curves["loss"][:: max(1, config.steps // 100)]
    frames = {"labeled": compact(data.frames.keys[i] for i in labeled)}
    return Result.of_one_seed(metrics, curves, frames)
