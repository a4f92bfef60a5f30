"""The reading aid: one net of the spiral while it trains, step by step, and its picture."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import clear_output
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.common.style import CLASS_MAP, MUTED, look
from experiments.common.training import evaluating, initialized_by
from experiments.toy.ensemble import Ensemble
from experiments.toy.figure2_boundaries import accuracy
from experiments.toy.figure3_features import channel_features, reference_points
from experiments.toy.plane import mark_legend, show_boundary, show_map, show_points
from experiments.toy.spiral import SpiralData, SpiralNet
from experiments.toy.train import (
    SpiralTraining,
    dense_spiral,
    frozen,
    member_data,
    random_batch,
    train_spiral,
)

LAYERS = 3  # the normalizations that Figure 3 shows, of four


class Offsets(NamedTuple):
    """How far the statistics of random batches lie from the population's, [3, batches] each.

    Of one channel, in front of normalizations 1 to 3. The population is all labeled and unlabeled
    points as one batch. An unbiased batch scatters around (0, 1).
    """

    mean: Tensor  # (mu(batch) - mu(population)) / sigma(population)
    deviation: Tensor  # sigma(batch) / sigma(population)


class Snapshot(NamedTuple):
    """One net after a number of steps; features are one channel's, after normalizations 1 to 3.

    Probability and accuracies are those of eval mode, as in Figure 2. The features are normalized
    by all points that the method may use as one batch: labeled ones for batch normalization,
    labeled and unlabeled ones for UBN.
    """

    step: int
    probability: Tensor  # [P], of class 1
    labeled: Tensor  # [3, 2l]
    unlabeled: Tensor  # [3, 2u]
    labeled_batches: Offsets  # of the labeled batches that batch normalization trains with
    combined_batches: Offsets  # of labeled and unlabeled rows together, as UBN has them
    labeled_accuracy: float
    test_accuracy: float


class Playback(NamedTuple):
    """A training run to move back and forth in: its data, points [N, 2], and its snapshots."""

    data: SpiralData
    snapshots: list[Snapshot]


def snapshot_steps(total: int, count: int = 12) -> list[int]:
    """Return at most `count` numbers of steps from 0 to `total`, denser early, each once.

    Example:
        >>> snapshot_steps(400, 6)
        [0, 16, 64, 144, 256, 400]
    """
    if count < 2:
        raise ValueError(f"count is {count}: it must be at least 2, for the first and last step.")
    return sorted({round(total * (i / (count - 1)) ** 2) for i in range(count)})


def play(
    config: SpiralTraining, points: Tensor, *, channel: int = 0, count: int = 12, batches: int = 24
) -> Playback:
    """Train one net and keep at most `count` snapshots; training is as without them.

    They hold its class probability at points [P, 2], and one channel's features and statistics over
    so many random batches of each kind: the same points in each snapshot, so that what moves from
    one to the next is the net.
    """
    if len(config.seeds) != 1:
        raise ValueError(f"A playback shows one seed, and got {config.seeds}: give one.")
    with initialized_by(0):  # its weights are never used
        template = SpiralNet(config.width, dropout=config.dropout)
    steps = set(snapshot_steps(config.steps, count))
    test = dense_spiral(config)
    snapshots = []

    def keep(step: int, net: Ensemble, data: SpiralData) -> None:
        if step not in steps:
            return
        everything = torch.cat([data.labeled, data.unlabeled])
        labeled, combined = (
            statistics_offsets(net, template, everything, drawn, channel)
            for drawn in _random_batches(config, data, batches)
        )
        with evaluating(net):
            probability = net(points[:, None])[:, 0].softmax(-1)[:, 1]
        sets = {"labeled": data.labeled, "unlabeled": data.unlabeled}
        found = channel_features(net, reference_points(config.norm, data), sets, channel=channel)
        features = (torch.stack(found[name]) for name in sets)
        accuracies = (accuracy(net, *some).item() for some in ((data.labeled, data.labels), test))
        snapshots.append(Snapshot(step, probability, *features, labeled, combined, *accuracies))

    run = train_spiral(config, after_step=keep)
    return Playback(member_data(run.data, 0), snapshots)


def statistics_offsets(
    net: Ensemble, template: nn.Sequential, population: Tensor, batches: Tensor, channel: int
) -> Offsets:
    """Measure one channel's statistics for batches [rows, B, 2], in units of its population's.

    The net has one member, of the template's layers, and the population [N, 1, 2]. As in training,
    each batch is normalized by its own statistics on its way to the next layer. NaN stands where
    the channel has one value for the whole population.
    """
    member = net.member(0, template)
    copies = Ensemble([member] * batches.size(1))  # one for each batch, side by side
    mean, var = _statistics(frozen(copies, batches), channel)
    true_mean, true_var = _statistics(frozen(net, population), channel)
    unit = true_var.sqrt().where(true_var > 0, torch.nan)
    return Offsets((mean - true_mean) / unit, var.sqrt() / unit)


def _statistics(net: Ensemble, channel: int) -> tuple[Tensor, Tensor]:
    """Return one channel's running mean and variance in the first normalizations, [3, E] each."""
    norms = [layer for layer in net.layers if isinstance(layer, _BatchNorm)][:LAYERS]
    kinds = ([norm.running_mean for norm in norms], [norm.running_var for norm in norms])
    return tuple(torch.stack(each).unflatten(1, (net.members, -1))[..., channel] for each in kinds)


def _random_batches(config: SpiralTraining, data: SpiralData, count: int) -> tuple[Tensor, Tensor]:
    """Return labeled batches and combined ones, [rows, count, 2], the same at each call."""
    generators = config.generators() * count
    labeled, unlabeled = (
        random_batch(points.expand(-1, count, -1), size, generators)
        for points, size in (
            (data.labeled, config.labeled_batch),
            (data.unlabeled, config.unlabeled_batch),
        )
    )
    return labeled, torch.cat([labeled, unlabeled])


BINS = 24
PLACES = dict(left=0.005, right=0.85, bottom=0.16, top=0.93, wspace=0.45, hspace=0.6)
BATCHES = {"labeled_batches": "BN", "combined_batches": "UBN"}  # whose batches these are
MOSAIC = """
    pppabc
    pppdef
    pppttt
"""


def draw(playback: Playback, index: int = -1) -> Figure:
    """Draw one snapshot: the plane, one channel's features and statistics, and the accuracy.

    All snapshots of a playback have the same axes, so that what moves is the net.
    """
    now = playback.snapshots[index]
    # Placed by hand: the same in every picture, and faster than a layout engine. Of `layout="none"`
    # the first savefig makes the style's constrained layout; an engine of its own remains.
    by_hand = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
    options = dict(figsize=(10.5, 5), layout=by_hand, gridspec_kw=PLACES)
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
    _draw_accuracy(axes["t"], playback.snapshots, now)
    for outer, title in (("c", "points; line: mean"), ("f", "batches"), ("t", "accuracy")):
        axes[outer].legend(title=title, loc="upper left", bbox_to_anchor=(1, 1.1), handlelength=1.5)
    mark_legend(figure)
    figure.set_label(
        f"One net of the spiral after {now.step} steps. Left, the predicted class over the plane, "
        "with the points. Right, by layer, histograms of one channel over labeled and unlabeled "
        "points with their means; mean and deviation of random batches, labeled as BN has them and "
        "combined as UBN has them, where unbiased ones scatter around (0, 1); below, the accuracy "
        f"so far: {now.labeled_accuracy:.3f} of labeled points, {now.test_accuracy:.3f} of test "
        "points."
    )
    return figure


def _draw_plane(axes: Axes, playback: Playback, now: Snapshot) -> None:
    show_map(axes, now.probability, cmap=CLASS_MAP, vmin=0, vmax=1)
    show_boundary(axes, now.probability, colors="k", linewidths=1.2)
    show_points(axes, playback.data)
    axes.set_title(f"step {now.step}: test accuracy {now.test_accuracy:.3f}")


def _draw_features(axes: Axes, snapshots: list[Snapshot], now: Snapshot, layer: int) -> None:
    of_all = [features[layer] for s in snapshots for features in (s.labeled, s.unlabeled)]
    edges = np.histogram_bin_edges(torch.cat(of_all), BINS)
    for name, features in (("unlabeled", now.unlabeled), ("labeled", now.labeled)):
        color, _, dash = look(name)
        density, _ = np.histogram(features[layer], edges, density=True)
        filled = name == "unlabeled"
        axes.stairs(density, edges, fill=filled, color=color, linewidth=1.2, label=name)
        axes.axvline(features[layer].mean(), color=color, linewidth=1.2, linestyle=dash)
    axes.set(title=f"layer {layer + 1}", yticks=[], xlim=(edges[0], edges[-1]))


def _draw_statistics(axes: Axes, snapshots: list[Snapshot], now: Snapshot, layer: int) -> None:
    every = [getattr(snapshot, field) for snapshot in snapshots for field in BATCHES]
    farthest = max(0.2, *(offsets.mean.nan_to_num(0).abs().max().item() for offsets in every))
    widest = max(1.8, *(offsets.deviation.nan_to_num(1).max().item() for offsets in every))
    axes.axhline(1, color=MUTED, linewidth=0.8)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for field, method in BATCHES.items():
        mean, deviation = (values[layer] for values in getattr(now, field))
        name = f"{field.split('_')[0]} ({method})"
        color, marker, _ = look(method)
        axes.scatter(mean, deviation, s=12, facecolors="none", edgecolors=color, marker=marker,
                     linewidths=0.8, label=name)  # fmt: skip
    axes.set(xlim=(-1.1 * farthest, 1.1 * farthest), ylim=(0, 1.1 * widest))


def _draw_accuracy(axes: Axes, snapshots: list[Snapshot], now: Snapshot) -> None:
    so_far = [snapshot for snapshot in snapshots if snapshot.step <= now.step]
    steps = [snapshot.step for snapshot in so_far]
    for name in ("labeled", "test"):
        values = [getattr(snapshot, f"{name}_accuracy") for snapshot in so_far]
        axes.plot(steps, values, label=name, **look(name).line)
    axes.set(xlim=(0, 1.02 * snapshots[-1].step), ylim=(0.4, 1.02))
    axes.set_xlabel("step")


def panel(
    picture_of: Callable[..., bytes], methods: list[str], first: Mapping[str, Any], steps: int
) -> ipywidgets.VBox:
    """Return sliders above the picture of the setting that they show, a PNG; `first` begins."""
    wide = dict(
        continuous_update=False, layout={"width": "340px"}, style={"description_width": "100px"}
    )
    controls = {
        "batch": ipywidgets.SelectionSlider(
            options=[8, 16, 32, 50], description="labeled batch", **wide
        ),
        "reading": ipywidgets.Dropdown(options=methods, description="method"),
        "labeled": ipywidgets.IntSlider(min=1, max=max(200, first["labeled"]), **wide),
        "unlabeled": ipywidgets.IntSlider(min=1, max=max(400, first["unlabeled"]), **wide),
        "noise": ipywidgets.FloatSlider(min=0, max=max(1.0, first["noise"]), step=0.05, **wide),
        "step": ipywidgets.SelectionSlider(options=snapshot_steps(steps), **wide),
    }
    for name, value in {**first, "step": steps}.items():
        controls[name].value = value
        controls[name].description = controls[name].description or name
    image = ipywidgets.Image(layout={"max_width": "100%", "object_fit": "contain"})

    def show(step: int, **setting: Any) -> None:
        print("One moment: a new setting trains for a few seconds.")
        image.value = picture_of(step, **setting)
        clear_output()

    message = ipywidgets.interactive_output(show, controls)
    sliders = ipywidgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([sliders, message, image])
