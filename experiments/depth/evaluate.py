"""What is measured on a depth net: predictions, accuracies, and the statistics of its layers."""

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from experiments.common.training import evaluating
from experiments.depth.data import DepthData, Frames, LabelsConfig
from experiments.depth.evaluation import Evaluation, evaluate_depth
from experiments.depth.layer_statistics import distances, layer_averages, layer_statistics
from ubnlib.diagnostics import refresh_statistics
from ubnlib.dispnet import DispNet
from ubnlib.kitti import FrameKey


def to_input(images: Tensor, channels_last: bool = False) -> Tensor:
    """Return uint8 images as the network's float input, in [-0.5, 0.5], where they are."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(torch.float32, memory_format=layout) / 255 - 0.5


def predict_depth(net: DispNet, images: Tensor, batch: int = 16) -> Tensor:
    """Return the finest depth maps [N, H, W], in meters, of uint8 images [N, 3, H, W]."""
    device = next(net.parameters()).device
    with evaluating(net):
        parts = [net(to_input(part.to(device)))[0][:, 0].cpu() for part in images.split(batch)]
    return torch.cat(parts)


def predict_frames(
    net: DispNet, frames: Frames, indices: Iterable[int], batch: int = 16
) -> Iterator[tuple[FrameKey, Tensor]]:
    """Yield the key and the finest depth map, [H, W] in meters, of each of some frames."""
    for some in torch.tensor(list(indices)).split(batch):
        maps = predict_depth(net, frames.batch(some, depth=False).images, batch)
        yield from zip((frames.keys[index] for index in some), maps, strict=True)


def evaluate_frames(net: DispNet, frames: Frames, indices: Iterable[int]) -> Evaluation:
    """Evaluate a net on packed frames at their own resolution, uncropped."""

    def lidar(key: FrameKey) -> Tensor:
        return frames.depth(frames.index(key))

    return evaluate_depth(predict_frames(net, frames, indices), lidar)


def accuracy_of_parts(
    net: DispNet, labels: LabelsConfig, data: DepthData, frames: int = 32
) -> dict[str, float]:
    """Return delta < 1.25 on labeled, unlabeled and test frames, at most `frames` of each.

    Labeled against unlabeled accuracy is where a reading of UBN goes wrong first.
    """
    accuracies = {}
    for name, some in _some_of_parts(labels, data, frames).items():
        accuracies[name] = evaluate_frames(net, data.frames, some).means["delta1"]
    return accuracies


def statistics_of_parts(
    net: DispNet, labels: LabelsConfig, data: DepthData, frames: int = 32
) -> dict[str, float]:
    """Return how far the statistics of labeled frames are from others, by `GAP/LAYER`.

    The gaps are `unlabeled` (labeled against unlabeled frames), `test` (labeled against test
    frames), and `averages` (the layer's moving averages against test frames), each a mean over
    channels as in `ubnlib.statistics_gap`, in evaluation.
    """
    device = next(net.parameters()).device
    images = {
        name: to_input(data.frames.batch(some, depth=False).images.to(device))
        for name, some in _some_of_parts(labels, data, frames).items()
    }
    statistics = {name: layer_statistics(net, batch) for name, batch in images.items()}
    pairs = {"test": ("test", "labeled")}
    if "unlabeled" in images:
        pairs["unlabeled"] = ("unlabeled", "labeled")
    gaps = {n: distances(statistics[b], statistics[a]) for n, (a, b) in pairs.items()}
    gaps["averages"] = distances(layer_averages(net), statistics["test"])
    return {f"{gap}/{layer}": value for gap, by in gaps.items() for layer, value in by.items()}


def _some_of_parts(labels: LabelsConfig, data: DepthData, frames: int) -> dict[str, np.ndarray]:
    """Return the positions of a few labeled, unlabeled and test frames, evenly spread."""
    labeled, unlabeled = data.labeled(labels)
    return {
        name: part[np.linspace(0, len(part) - 1, min(frames, len(part))).astype(int)]
        for name, part in {"labeled": labeled, "unlabeled": unlabeled, "test": data.test}.items()
        if len(part)
    }


def refreshed(net: DispNet, data: DepthData, frames: int = 512) -> DispNet:
    """Return a copy of a net with statistics measured anew on training images, labeled or not.

    Args:
        net: The net; it stays as it is.
        data: Its data.
        frames: Use about so many images, from all over the training set.
    """
    device = next(net.parameters()).device
    some = torch.from_numpy(data.train[:: max(1, len(data.train) // frames)])
    images = (data.frames.batch(part, depth=False).images for part in some.split(64))
    batches = (to_input(batch.to(device)) for batch in images)
    return refresh_statistics(copy.deepcopy(net), batches)
