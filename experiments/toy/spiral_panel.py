"""The reading aid: one moment of one training run on the spiral, in one figure."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.style import BLUE, CLASS_MAP, GRAY, GREEN, PURPLE
from experiments.toy.plane import show_boundary, show_map, show_points
from experiments.toy.playback import Playback, Snapshot

BINS = 24
PLACES = dict(left=0.01, right=0.9, bottom=0.1, top=0.93, wspace=0.3, hspace=0.5)
BATCHES = {"labeled_batches": ("labeled", BLUE), "combined_batches": ("combined", PURPLE)}
MOSAIC = """
    pppabc
    pppdef
    pppttt
"""


def draw(playback: Playback, index: int = -1) -> Figure:
    """Draw one snapshot: the plane, one channel's features and statistics, and the accuracy.

    All snapshots of a playback have the same axes, so that what moves is the net.

    Args:
        playback: A training run.
        index: Which of its snapshots, as in a list.
    """
    now = playback.snapshots[index]
    # Placed by hand: the same in every picture, and faster than a layout engine.
    options = dict(figsize=(10, 4.8), layout="none", gridspec_kw=PLACES)
    figure, axes = plt.subplot_mosaic(MOSAIC, **options)
    _draw_plane(axes["p"], playback, now)
    for layer, (top, middle) in enumerate(zip("abc", "def", strict=True)):
        _draw_features(axes[top], playback.snapshots, now, layer)
        _draw_statistics(axes[middle], playback.snapshots, now, layer)
    axes["a"].set_ylabel("features")
    axes["d"].set_ylabel("std, relative")
    axes["e"].set_xlabel("mean of a batch, from that of all points")
    for inner in "ef":
        axes[inner].tick_params(labelleft=False)
    for outer, title in (("c", "points"), ("f", "batches")):
        axes[outer].legend(title=title, loc="upper left", bbox_to_anchor=(1, 1.1), handlelength=1)
    _draw_accuracy(axes["t"], playback.snapshots, now)
    return figure


def _draw_plane(axes: Axes, playback: Playback, now: Snapshot) -> None:
    show_map(axes, now.probability, cmap=CLASS_MAP, vmin=0, vmax=1)
    show_boundary(axes, now.probability, colors="k", linewidths=1.2)
    show_points(axes, playback.data)
    axes.set_title(f"step {now.step}: test accuracy {now.test_accuracy:.3f}")


def _draw_features(axes: Axes, snapshots: list[Snapshot], now: Snapshot, layer: int) -> None:
    of_all = [features[layer] for s in snapshots for features in (s.labeled, s.unlabeled)]
    edges = np.histogram_bin_edges(torch.cat(of_all), BINS)
    for name, features, color in (
        ("unlabeled", now.unlabeled, GREEN),
        ("labeled", now.labeled, BLUE),
    ):
        density, _ = np.histogram(features[layer], edges, density=True)
        axes.stairs(density, edges, fill=True, color=color, alpha=0.45, label=name)
        axes.axvline(features[layer].mean(), color=color, linewidth=1)
    axes.set(title=f"layer {layer + 1}", yticks=[], xlim=(edges[0], edges[-1]))


def _draw_statistics(axes: Axes, snapshots: list[Snapshot], now: Snapshot, layer: int) -> None:
    every = [getattr(snapshot, field) for snapshot in snapshots for field in BATCHES]
    farthest = max(0.2, *(offsets.mean.nan_to_num(0).abs().max().item() for offsets in every))
    widest = max(1.8, *(offsets.deviation.nan_to_num(1).max().item() for offsets in every))
    axes.axhline(1, color=GRAY, linewidth=0.8)
    axes.axvline(0, color=GRAY, linewidth=0.8)
    for field, (name, color) in BATCHES.items():
        mean, deviation = (values[layer] for values in getattr(now, field))
        axes.scatter(mean, deviation, s=9, color=color, alpha=0.6, linewidths=0, label=name)
    axes.set(xlim=(-1.1 * farthest, 1.1 * farthest), ylim=(0, 1.1 * widest))


def _draw_accuracy(axes: Axes, snapshots: list[Snapshot], now: Snapshot) -> None:
    so_far = [snapshot for snapshot in snapshots if snapshot.step <= now.step]
    steps = [snapshot.step for snapshot in so_far]
    for field, name, color in (
        ("labeled_accuracy", "labeled points", BLUE),
        ("test_accuracy", "test points", "k"),
    ):
        values = [getattr(snapshot, field) for snapshot in so_far]
        axes.plot(steps, values, ".-", color=color, label=name)
    axes.set(xlim=(0, 1.02 * snapshots[-1].step), ylim=(0.4, 1.02))
    axes.set_xlabel("step")
    axes.legend(title="accuracy", loc="lower right")
