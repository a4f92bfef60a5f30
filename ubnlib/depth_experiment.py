"""The depth experiment of section 4: DispNet trained with few depth maps and all images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ubnlib.depth import Downscale, LossNorm, depth_metrics, multiscale_depth_loss
from ubnlib.dispnet import DispNet
from ubnlib.kitti import Frames, keep_every
from ubnlib.records import Config, Result, recorded
from ubnlib.training import (
    Batch,
    BNConfig,
    NormConfig,
    default_device,
    evaluating,
    fit,
    initialized_by,
    random_batches,
)
from ubnlib.weights import save_weights


class DepthConfig(Config):
    """One depth run. Unstated in the paper: the loss's norm and how targets are downscaled."""

    experiment: Literal["depth"] = "depth"
    data: str  # fingerprint of the frames, so that a record says what it saw
    norm: NormConfig = BNConfig()
    label_every: int  # a depth sensor whose frame rate is this many times lower
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


class DepthData(NamedTuple):
    """Training and test frames."""

    train: Frames
    test: Frames

    @property
    def fingerprint(self) -> str:
        """What data this is, for `DepthConfig.data`."""
        return f"{self.train.fingerprint}+{self.test.fingerprint}"

    def labeled(self, label_every: int) -> tuple[Tensor, Tensor]:
        """Return the indices of training frames that keep their depth map, and of the others."""
        kept = torch.from_numpy(keep_every(self.train.keys, label_every))
        return kept.nonzero()[:, 0], (~kept).nonzero()[:, 0]


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """Return uint8 images as the network's float input on a device, in [-0.5, 0.5]."""
    return images.to(device).float() / 255 - 0.5


def train_depth(
    config: DepthConfig, data: DepthData, *, progress: str | None = None
) -> tuple[DispNet, dict[str, list[float]]]:
    """Train DispNet, on a GPU if there is one; runs of a seed share weights and labeled batches.

    All runs make the same number of optimizer steps, so that fewer labels do not mean less
    training, and batch normalization never sees an unlabeled image.

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
        _batches(config, data, device),
        progress=progress,
        total=config.steps,
        after_step=evaluate,
    )
    return net, {"loss": losses, **accuracies}


def _batches(config: DepthConfig, data: DepthData, device: torch.device) -> Iterator[Batch]:
    labeled, unlabeled = data.labeled(config.label_every)
    rows, others = (
        random_batches(size, len(indices), torch.Generator().manual_seed(config.seed))
        for size, indices in (
            (config.labeled_batch, labeled),
            (config.unlabeled_batch, unlabeled),
        )
    )
    uses_unlabeled = config.norm.kind == "ubn" and len(unlabeled) > 0
    for _ in range(config.steps):
        row = labeled[next(rows)]
        other = None
        if uses_unlabeled:
            other = to_input(data.train.images[unlabeled[next(others)]], device)
        target = data.train.depth[row].to(device)
        yield Batch(to_input(data.train.images[row], device), target, other)


def predict_depth(net: DispNet, images: Tensor, batch: int = 16) -> Tensor:
    """Return the finest depth maps [N, H, W], in meters, of uint8 images [N, 3, H, W]."""
    device = next(net.parameters()).device
    with evaluating(net):
        parts = [net(to_input(part, device))[0][:, 0].cpu() for part in images.split(batch)]
    return torch.cat(parts)


def accuracy_of_parts(
    net: DispNet, config: DepthConfig, data: DepthData, frames: int = 32
) -> dict[str, float]:
    """Return delta < 1.25 on labeled, unlabeled and test frames, at most `frames` of each.

    Labeled against unlabeled accuracy is where a reading of UBN goes wrong first.
    """
    labeled, unlabeled = data.labeled(config.label_every)
    parts = {
        "labeled": (data.train, labeled),
        "unlabeled": (data.train, unlabeled),
        "test": (data.test, torch.arange(len(data.test))),
    }
    accuracies = {}
    for name, (source, indices) in parts.items():
        if len(indices):
            some = indices[torch.linspace(0, len(indices) - 1, min(frames, len(indices))).long()]
            prediction = predict_depth(net, source.images[some])
            accuracies[name] = depth_metrics(prediction, source.depth[some])["delta1"]
    return accuracies


@recorded
def run_depth(
    config: DepthConfig,
    data: DepthData,
    *,
    weights: Path | None = None,
    progress: str | None = None,
) -> Result:
    """Train one net and measure it on all test frames, at the frames' resolution, uncropped.

    Where `weights` names a file, the trained net is kept there; see `ubnlib.weights`.
    """
    net, curves = train_depth(config, data, progress=progress)
    if weights is not None:
        save_weights(net, weights)
    metrics = depth_metrics(predict_depth(net, data.test.images), data.test.depth)
    parts = accuracy_of_parts(net, config, data)
    metrics |= {f"{name}_delta1": value for name, value in parts.items() if name != "test"}
    labeled, unlabeled = data.labeled(config.label_every)
    metrics |= {"labeled_frames": float(len(labeled)), "unlabeled_frames": float(len(unlabeled))}
    curves["loss"] = curves["loss"][:: max(1, config.steps // 100)]
    return Result(metrics, curves)
