"""Predictions, their metrics at the ground truth's own size, and what curves show of a training.

The usual protocol: upsample the prediction as disparity to the native size of each frame, invert,
and compare inside the crop. Frames of a data set such as KITTI differ in size, so batches are made
of frames that agree in it.

As a command, it evaluates a trained run on KITTI's test images: see `protocols`.
"""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.common.training import evaluating
from experiments.depth.data import DepthData, Frames, LabelsConfig
from ubnlib.diagnostics import refresh_statistics
from ubnlib.dispnet import DispNet
from ubnlib.functional import Statistics, batch_statistics, gap
from ubnlib.kitti import FrameKey
from ubnlib.metrics import METRICS, Crop, as_depth, average_metrics, per_image_metrics

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Evaluation(Generic[Key]):
    """The metrics of each frame, in the order in which the predictions came."""

    keys: tuple[Key, ...]
    per_frame: dict[str, np.ndarray]  # by metric: [len(keys)] float64, NaN if nothing was measured

    @cached_property
    def means(self) -> dict[str, float]:
        """Means over the frames that had a pixel to evaluate."""
        return average_metrics({k: torch.from_numpy(v) for k, v in self.per_frame.items()})

    @cached_property
    def left_out(self) -> tuple[Key, ...]:
        """Frames without a pixel to evaluate; they are not part of the means."""
        empty = np.isnan(self.per_frame["delta1"])
        return tuple(key for key, left in zip(self.keys, empty, strict=True) if left)


def evaluate_depth(
    predictions: Iterable[tuple[Key, np.ndarray | Tensor]],
    target: Callable[[Key], np.ndarray | Tensor],
    *,
    crop: Crop | None = None,
    cap: float = 80.0,
    cut_targets: bool = True,
    median_scaling: bool = False,
    batch_size: int = 16,
    device: torch.device | str | None = None,
) -> Evaluation[Key]:
    """Evaluate predicted depth maps at the size of their targets.

    Predictions are taken one by one, in any order and of any mixture of sizes. At most
    `batch_size` frames for each size are held at a time.

    Predictions are (key, depth [h, w]), and `target` returns a frame's measured depth [H, W], such
    as `protocols.ImprovedGroundTruth(root).depth`; both in meters, 0 = no measurement. Options are
    those of `per_image_metrics`; device None computes where each prediction is.

    Example:
        >>> maps = {"near": torch.full((2, 2), 8.0), "far": torch.full((2, 2), 40.0)}
        >>> measured = {"near": torch.full((4, 6), 10.0), "far": torch.full((5, 6), 40.0)}
        >>> result = evaluate_depth(maps.items(), measured.get)
        >>> round(result.means["abs_rel"], 6), result.per_frame["delta1"].tolist()
        (0.1, [0.0, 1.0])
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more frames.")
    rows: dict[Key, np.ndarray | None] = {}  # a frame has its place before it has its metrics
    waiting: dict[tuple[torch.Size, torch.Size], list[tuple[Key, Tensor, Tensor]]] = {}

    def compute(frames: list[tuple[Key, Tensor, Tensor]]) -> None:
        keys, predicted, measured = zip(*frames, strict=True)
        measured = torch.stack(measured)
        predicted = resize_depth(torch.stack(predicted), tuple(measured.shape[1:]))
        metrics = per_image_metrics(
            predicted,
            measured,
            crop=crop,
            cap=cap,
            cut_targets=cut_targets,
            median_scaling=median_scaling,
        )
        table = torch.stack([metrics[name] for name in METRICS], dim=1).cpu().double().numpy()
        rows.update(zip(keys, table, strict=True))

    for key, prediction in predictions:
        if key in rows:
            raise ValueError(f"Frame {key} came twice: expected one prediction for each frame.")
        rows[key] = None
        predicted, measured = as_depth(prediction).to(device), as_depth(target(key))
        sizes = predicted.shape, measured.shape
        if any(len(size) != 2 for size in sizes):
            raise ValueError(
                f"Frame {key} has a prediction of shape {tuple(sizes[0])} and a target of shape "
                f"{tuple(sizes[1])}: expected [h, w] and [H, W]."
            )
        alike = waiting.setdefault(sizes, [])
        alike.append((key, predicted, measured))
        if len(alike) == batch_size:
            compute(waiting.pop(sizes))
    for frames in waiting.values():
        compute(frames)
    per_frame = np.array(list(rows.values())).reshape(len(rows), len(METRICS)).T
    evaluation = Evaluation(tuple(rows), dict(zip(METRICS, per_frame, strict=True)))
    if len(evaluation.left_out) == len(rows):
        raise ValueError(
            f"None of the {len(rows)} frames has a pixel with 0 < depth <= {cap} to evaluate "
            f"(crop: {crop}): expected predictions, and targets with measurements."
        )
    return evaluation


def resize_depth(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring depth maps [N, h, w], dense and in meters, to another size: [N, height, width].

    Bilinearly in disparity (1 / depth), in float32 or float64. The borders of both sizes lie on
    each other (`align_corners=False`), as they do when images are resized.
    """
    if depth.ndim != 3:
        raise ValueError(f"depth has shape {tuple(depth.shape)}, expected [N, h, w].")
    if depth.dtype != torch.float64:
        depth = depth.float()
    if tuple(depth.shape[1:]) == tuple(size):
        return depth
    disparity = F.interpolate(depth[:, None].reciprocal(), size, mode="bilinear")
    return disparity[:, 0].reciprocal()


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
    net: DispNet, labels: LabelsConfig, data: DepthData, frames: int = 128
) -> dict[str, float]:
    """Return delta < 1.25 on labeled, unlabeled and test frames, at most `frames` of each.

    Labeled against unlabeled accuracy is where a reading of UBN goes wrong first.
    """
    accuracies = {}
    for name, some in _some_of_parts(labels, data, frames).items():
        some = some[~np.isin(some, data.without_depth)]
        if not len(some):
            continue
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
    """Return a copy of a net with statistics measured anew on about so many training images."""
    device = next(net.parameters()).device
    some = torch.from_numpy(data.train[:: max(1, len(data.train) // frames)])
    images = (data.frames.batch(part, depth=False).images for part in some.split(64))
    batches = (to_input(batch.to(device)) for batch in images)
    return refresh_statistics(copy.deepcopy(net), batches)


# --- statistics, layer by layer -------------------------------------------------------------------


def norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return a model's normalization layers by name, without a final `.norm`."""
    return {
        name.removesuffix(".norm"): module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
    }


def layer_statistics(model: nn.Module, images: Tensor) -> dict[str, Statistics]:
    """Return the statistics of each normalization layer's input, in evaluation."""
    found: dict[str, Statistics] = {}

    def watch(name: str):
        def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
            found[name] = batch_statistics(inputs[0])

        return note

    hooks = [layer.register_forward_pre_hook(watch(n)) for n, layer in norm_layers(model).items()]
    try:
        with evaluating(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def layer_averages(model: nn.Module) -> dict[str, Statistics]:
    """Return the moving averages of each normalization layer."""
    return {
        name: Statistics(layer.running_mean.clone(), layer.running_var.clone(), 1)
        for name, layer in norm_layers(model).items()
    }


def distances(
    a: Mapping[str, Statistics], b: Mapping[str, Statistics], eps: float = 1e-5
) -> dict[str, float]:
    """Return `statistics_gap`'s distance by layer, in units of b's variance, over channels."""
    return {name: gap(a[name], b[name], b[name], eps).mean().item() for name in a}


if __name__ == "__main__":
    from experiments.depth.protocols import main  # which needs this file

    raise SystemExit(main())
