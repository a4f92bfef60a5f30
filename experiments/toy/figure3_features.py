"""Figure 3: features after each normalization, and how far labeled and unlabeled ones differ.

By layer, through training: beside the features, the statistics' errors and the test accuracy.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from pydantic import Field, model_validator
from scipy.stats import pearsonr, rankdata, spearmanr
from torch import Tensor

from experiments.common.records import Record, Result, recorded
from experiments.common.stats import interval
from experiments.common.style import look
from experiments.common.training import NormConfig
from experiments.toy.ensemble import Ensemble
from experiments.toy.figure2_boundaries import accuracy
from experiments.toy.figure3_bias import statistics_errors, step_batches
from experiments.toy.spiral import SpiralData
from experiments.toy.train import SpiralTraining, dense_spiral, frozen, train_spiral
from ubnlib.diagnostics import refresh_statistics

# A channel that spreads less is constant. Normalized features spread by about 1.
CONSTANT = 1e-4
GAPS = ("wasserstein", "mean_gap", "log_std_ratio")


class FeaturesConfig(SpiralTraining):
    """One run: nets trained as any others, whose features are looked at on the way."""

    version: ClassVar[int] = 1
    experiment: Literal["spiral_features"] = "spiral_features"
    # Shares of the training after which to look, beside its start and its end.
    checkpoints: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.01, 0.03, 0.1, 0.3)
    chance_draws: int = Field(default=20, ge=1)
    statistics_batches: int = Field(default=32, ge=2)

    @model_validator(mode="after")
    def _has_chance(self) -> "FeaturesConfig":
        if self.labeled_per_class >= self.unlabeled_per_class:
            raise ValueError(
                f"labeled_per_class={self.labeled_per_class} must be below unlabeled_per_class="
                f"{self.unlabeled_per_class}: chance compares as many unlabeled points with the "
                "other ones."
            )
        return self

    @property
    def looks(self) -> list[int]:
        """The numbers of steps after which to look."""
        return sorted({0, self.steps, *(round(share * self.steps) for share in self.checkpoints)})


@recorded
def run_features(config: FeaturesConfig) -> Result:
    """Train nets, and measure their features through training and what refreshing them changes.

    Curves are named MEASURE.PART.LAYER (`feature_table` reads them). Metrics are the means over
    layers at the start and the end of training, as `wasserstein_labeled_start`; the distance
    divided by chance's, as `wasserstein_ratio_end`, for which 1 means no difference; and test
    accuracy: as trained, with the statistics of all labeled points, and of all points.
    """
    curves: dict[tuple[str, str], list[Tensor]] = defaultdict(list)

    def look(step: int, net: Ensemble, data: SpiralData) -> None:
        if step not in config.looks:
            return
        for name, layers in layer_numbers(net, data, config).items():
            curves[name].append(torch.stack(layers, -1))

    net, data, _ = train_spiral(config, after_step=look)
    history = {name: torch.stack(each, 1) for name, each in curves.items()}  # [E, looks, layers]
    means = {name: values.nanmean(-1) for name, values in history.items()}
    means |= {(name, "ratio"): means[name, "labeled"] / means[name, "chance"] for name in GAPS}
    metrics = {
        f"{measure}_{part}_{when}": values[:, index]
        for (measure, part), values in means.items()
        for when, index in (("start", 0), ("end", -1))
    }
    metrics |= _accuracies(net, data, config)
    steps = torch.tensor(config.looks).expand(len(config.seeds), -1)
    layers = {
        f"{measure}.{part}.{layer}": values[..., layer - 1]
        for (measure, part), values in history.items()
        for layer in range(1, values.size(-1) + 1)
    }
    return Result(
        {name: values.tolist() for name, values in metrics.items()},
        {name: values.tolist() for name, values in {"step": steps, **layers}.items()},
    )


def layer_numbers(
    net: Ensemble, data: SpiralData, config: FeaturesConfig
) -> dict[tuple[str, str], list[Tensor]]:
    """Measure every layer of nets as they are: values [E] a layer, by measure and part.

    Parts of the three distances (`FeatureGap`) are `labeled` and `chance`; those of the statistics'
    errors in `mean` and `scale` (`StatisticsError`) are `bias` and `spread`, where the population
    is a dense spiral.
    """
    plain = frozen(net, reference_points(config.norm, data))
    labeled, unlabeled = map(plain.normalized_features, (data.labeled, data.unlabeled))
    drawn = random_parts(
        len(data.unlabeled), config.labeled_per_class, config.chance_draws, config.seeds
    )
    numbers = defaultdict(list)
    for ours, others in zip(labeled, unlabeled, strict=True):
        gap, chance = labeled_gap(ours, others), feature_gap(others, drawn)
        for name in GAPS:
            numbers[name, "labeled"].append(getattr(gap, name))
            numbers[name, "chance"].append(getattr(chance, name))
        numbers["channels", "compared"].append(gap.channels)
    batches = step_batches(config, data, config.statistics_batches)
    for errors in statistics_errors(net, batches, dense_spiral(config, 250)[0]):
        for name, value in errors._asdict().items():
            numbers[tuple(name.split("_"))].append(value)
    return dict(numbers)


def _accuracies(net: Ensemble, data: SpiralData, config: FeaturesConfig) -> dict[str, Tensor]:
    """Return test accuracies [E] as trained, and with statistics of whole sets of points."""
    test = dense_spiral(config)
    everything = torch.cat([data.labeled, data.unlabeled])
    accuracies = {"test_accuracy": accuracy(net, *test)}
    for name, points in {"labeled": data.labeled, "all": everything}.items():
        refreshed = refresh_statistics(copy.deepcopy(net).eval(), [points])
        accuracies[f"accuracy_{name}_statistics"] = accuracy(refreshed, *test)
    return accuracies


def reference_points(norm: NormConfig, data: SpiralData) -> Tensor:
    """Return the points that a method's statistics are about: for UBN also the unlabeled ones."""
    return data.labeled if norm.kind == "bn" else torch.cat([data.labeled, data.unlabeled])


class FeatureGap(NamedTuple):
    """How far two sets of features differ: three distances, each averaged over channels.

    The first two are in standard deviations of the second set. Two samples of one distribution do
    not have distance 0: those of random parts say which. NaN where no channel was compared.
    """

    wasserstein: Tensor  # Wasserstein-1, the area between the two distribution functions
    mean_gap: Tensor  # |difference of the means|
    log_std_ratio: Tensor  # |log of the ratio of the standard deviations|
    channels: Tensor  # how many were compared; those constant in either set are not


def labeled_gap(labeled: Tensor, unlabeled: Tensor) -> FeatureGap:
    """Return how far labeled features [L, E, C] lie from unlabeled ones [U, E, C]: [E] each."""
    is_labeled = torch.arange(len(labeled) + len(unlabeled)) < len(labeled)
    chosen = is_labeled[None, :, None].expand(1, -1, labeled.size(1))
    return feature_gap(torch.cat([labeled, unlabeled]), chosen)


def random_parts(points: int, per_class: int, draws: int, seeds: Sequence[int]) -> Tensor:
    """Draw random parts of points [draws, points, E], as labeled points are drawn.

    They have `per_class` points of each class, of which the first half of the points is class 0's,
    and each net's depend on its own seed only.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    lots = [torch.rand(draws, 2, points // 2, generator=generator) for generator in generators]
    ranks = torch.stack(lots, dim=-1).argsort(2).argsort(2)
    return (ranks < per_class).flatten(1, 2)


def feature_gap(features: Tensor, chosen: Tensor) -> FeatureGap:
    """Return how far chosen rows of features [N, E, C] lie from the others, in their deviations.

    `chosen` [S, N, E] has S ways to choose some rows, and not all; each distance [E] is the mean
    over them. Chance's are those of as many unlabeled points as are labeled (`random_parts`).

    Example:
        >>> import torch
        >>> features = torch.tensor([0.0, 2.0, 10.0, 12.0])[:, None, None]
        >>> chosen = torch.tensor([True, True, False, False])[None, :, None]
        >>> gap = feature_gap(features, chosen)
        >>> gap.wasserstein.item(), gap.mean_gap.item(), gap.log_std_ratio.item()
        (10.0, 10.0, 0.0)
    """
    values = features.double().permute(1, 2, 0).contiguous()  # [E, C, N]
    some = chosen.transpose(1, 2).double()  # [S, E, N]
    some, others = (part / part.sum(-1, keepdim=True) for part in (some, 1 - some))
    centered = values - values.mean(-1, keepdim=True)
    means = [torch.einsum("ecn,sen->sec", centered, part) for part in (some, others)]
    squares = [torch.einsum("ecn,sen->sec", centered**2, part) for part in (some, others)]
    stds = [
        (square - mean**2).clamp_min(0).sqrt() for square, mean in zip(squares, means, strict=True)
    ]
    unit = stds[1]
    distances = (
        _wasserstein(values, some - others) / unit,
        (means[0] - means[1]).abs() / unit,
        (stds[0] / unit).log().abs(),
    )
    varies = (stds[0] > CONSTANT) & (unit > CONSTANT)
    averages = [distance.where(varies, torch.nan).nanmean(-1) for distance in distances]
    compared = varies.sum(-1, dtype=values.dtype)
    return FeatureGap(*(each.nanmean(0) for each in (*averages, compared)))


def _wasserstein(values: Tensor, weights: Tensor) -> Tensor:
    """Return the area [S, E, C] between two distribution functions over values [E, C, N].

    `weights` [S, E, N] are each value's in the first distribution less that in the second.
    """
    ordered, order = values.sort(dim=-1)
    widths = ordered.diff()
    areas = []
    for weight in weights:
        between = weight[:, None].expand_as(order).gather(-1, order).cumsum(-1)[..., :-1]
        areas.append(torch.linalg.vecdot(between.abs_(), widths))
    return torch.stack(areas)


def feature_table(record: Record) -> pd.DataFrame:
    """Return the curves of `run_features`: columns seed, step, measure, part, layer, value."""
    rows = []
    for name, curves in record.curves.items():
        if name == "step":
            continue
        measure, part, layer = name.split(".")
        for seed, steps, values in zip(record.seeds, record.curves["step"], curves, strict=True):
            columns = {"seed": seed, "step": steps, "measure": measure, "part": part}
            rows.append(pd.DataFrame({**columns, "layer": int(layer), "value": values}))
    return pd.concat(rows, ignore_index=True).astype({"step": int, "value": float})


class Correlation(NamedTuple):
    """Spearman's rank correlation with its 95 % bootstrap interval, over `count` pairs."""

    value: float
    low: float
    high: float
    count: int


def rank_correlation(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Return Spearman's rank correlation of pairs, such as a gap and an error of each seed.

    The interval resamples the pairs (percentile bootstrap, 9999 times); it is wide for few pairs:
    at 8, it excludes 0 for a correlation beyond 0.7 or so only. Pairs with a NaN are left out. All
    is NaN for fewer than 5 pairs, or where x or y is the same everywhere.
    """
    pairs = np.array([x, y], float)
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    count = pairs.shape[1]
    if count < 5 or (np.ptp(pairs, axis=1) == 0).any():
        return Correlation(np.nan, np.nan, np.nan, count)
    drawn = np.random.default_rng(0).integers(count, size=(9999, count))
    ranks = rankdata(pairs[:, drawn], axis=-1)
    varied = ranks[:, (np.ptp(ranks, axis=-1) > 0).all(0)]  # a draw of one pair has no correlation
    low, high = np.quantile(pearsonr(*varied, axis=-1).statistic, [0.025, 0.975])
    return Correlation(float(spearmanr(*pairs).statistic), float(low), float(high), count)


def random_channel(channels: int, seed: int) -> int:
    """Return the channel that Figure 3 shows of a seed: drawn at random, not chosen by eye."""
    return int(torch.randint(channels, (), generator=torch.Generator().manual_seed(seed)))


def channel_features(
    net: Ensemble,
    reference: Tensor,
    sets: dict[str, Tensor],
    *,
    channel: int,
    member: int = 0,
    layers: int = 3,
) -> dict[str, list[Tensor]]:
    """Return one channel's features [N] of one net in the first layers, for each set of points.

    All sets [N, E, 2] are normalized alike, by the statistics of reference points [M, E, 2].
    """
    plain = frozen(net, reference)
    return {
        name: [layer[:, member, channel] for layer in plain.normalized_features(points)[:layers]]
        for name, points in sets.items()
    }


Sets = dict[str, Sequence[ArrayLike]]  # by name: for each layer, one channel's values [N]


def draw_histograms(blocks: dict[str, Sets], bins: int = 24) -> tuple[Figure, pd.DataFrame]:
    """Draw one channel's histograms: layers in rows, sets of points in columns, nets in blocks.

    The black line is the mean. Histograms of a row have the same bins, over all values in it.
    Returned are the figure and its data: net, layer, points, mean, bin edges, density.
    """
    columns = sum(map(len, blocks.values()))
    layers = len(next(iter(next(iter(blocks.values())).values())))
    figure = plt.figure(figsize=(1.7 * columns, 1.6 * layers))
    parts = figure.subfigures(1, len(blocks), squeeze=False, wspace=0.04)[0]
    tables = []
    for part, (net, sets) in zip(parts, blocks.items(), strict=True):
        part.suptitle(net, fontsize=11)
        grid = part.subplots(layers, len(sets), sharex="row", sharey="row", squeeze=False)
        for layer, row in enumerate(grid):
            values = {name: np.asarray(each[layer]) for name, each in sets.items()}
            edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=bins)
            for axes, (name, numbers) in zip(row, values.items(), strict=True):
                density, _ = np.histogram(numbers, edges, density=True)
                axes.stairs(density, edges, fill=True, color=look(name).color)
                axes.axvline(numbers.mean(), color="k", linewidth=1)
                axes.set_yticks([])
                place = {"net": net, "layer": layer + 1, "points": name, "mean": numbers.mean()}
                bars = {"left": edges[:-1], "right": edges[1:], "density": density}
                tables.append(pd.DataFrame({**place, **bars}))
            row[0].set_ylabel(f"after layer {layer + 1}")
        for axes, name in zip(grid[0], sets, strict=True):
            axes.set_title(name)
    figure.set_label(
        f"Histograms of one channel's features in nets of {' and '.join(blocks)}, after each of "
        f"the first {layers} normalizations (rows), over {', '.join(sets)} (columns); the black "
        "line is the mean."
    )
    return figure, pd.concat(tables, ignore_index=True)


def draw_gaps(table: pd.DataFrame, rows: dict[str, tuple[str, Sequence[str]]]) -> Figure:
    """Draw means over seeds against training steps: layers in columns, measures in rows.

    Bands are intervals of the mean over seeds. `table` is `feature_table`'s with a column `method`;
    `rows` are measures and their two parts, the second beside the first, thin and hollow:
    `{"distance": ("wasserstein", ("labeled", "chance"))}`.
    """
    layers = sorted(table["layer"].unique())
    size = (2.2 * len(layers) + 1, 2.1 * len(rows) + 0.5)
    figure, grid = plt.subplots(
        len(rows), len(layers), figsize=size, squeeze=False, sharex=True, sharey="row"
    )
    for panels, (label, (measure, parts)) in zip(grid, rows.items(), strict=True):
        panels[0].set_ylabel(label)
        for axes, layer in zip(panels, layers, strict=True):
            chosen = table[(table["measure"] == measure) & (table["layer"] == layer)]
            for part in parts:
                for method, values in chosen[chosen["part"] == part].groupby("method"):
                    style = look(method).line if part == parts[0] else look(method).aside
                    _line(axes, values, label=f"{method}, {part}", **style)
    for axes, layer in zip(grid[0], layers, strict=True):
        axes.set_title(f"layer {layer}")
    for axes in grid[-1]:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlabel("training step")
    for panels in grid:
        panels[0].set_ylim(bottom=0)
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    kinds = "; ".join(f"{label}: {' and '.join(parts)}" for label, (_, parts) in rows.items())
    figure.set_label(
        f"Means over seeds with 95 % bands against the training step, a column a layer, for "
        f"{' and '.join(table['method'].unique())}. Rows: {kinds} (thin, hollow marks)."
    )
    return figure


def _line(axes: Axes, values: pd.DataFrame, **style) -> None:
    """Draw the mean over seeds at each step, and the band of its interval."""
    by_step = values.groupby("step")["value"]
    mean = by_step.mean()
    axes.plot(mean.index, mean, **style)
    ends = [interval(each.dropna().to_numpy()) for _, each in by_step]
    low, high = np.array(ends, dtype=float).T  # None becomes nan, which is not drawn
    axes.fill_between(mean.index, low, high, color=style["color"], alpha=0.15, linewidth=0)
