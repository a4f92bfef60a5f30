"""Figure 3 in numbers: differences of features and statistics through training, and accuracy."""

import copy
from collections import defaultdict
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from pydantic import Field, model_validator
from scipy.stats import rankdata
from torch import Tensor

from experiments.common.records import Record, Result, recorded
from experiments.common.training import initialized_by
from experiments.toy.ensemble import Ensemble
from experiments.toy.features import chance_gap, labeled_gap, random_parts, reference_points
from experiments.toy.figure3_bias import statistics_errors, step_batches
from experiments.toy.points import SpiralData
from experiments.toy.reference import frozen
from experiments.toy.regions import accuracy
from experiments.toy.train import SpiralTraining, dense_spiral, train_spiral
from ubnlib.diagnostics import refresh_statistics

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
        gap, chance = labeled_gap(ours, others), chance_gap(others, drawn)
        for name in GAPS:
            numbers[name, "labeled"].append(getattr(gap, name))
            numbers[name, "chance"].append(getattr(chance, name))
        numbers["channels", "compared"].append(gap.channels)
    batches = step_batches(config, data, config.statistics_batches)
    for errors in statistics_errors(net, batches, dense_spiral(config, 250)[0]):
        for name, value in errors._asdict().items():
            numbers[tuple(name.split("_"))].append(value)
    return dict(numbers)


@recorded
def run_features(config: FeaturesConfig, *, progress: str | None = None) -> Result:
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
        with initialized_by(0):  # dropout must not take the training's random numbers
            for name, layers in layer_numbers(net, data, config).items():
                curves[name].append(torch.stack(layers, -1))

    net, data, _ = train_spiral(config, progress=progress, after_step=look)
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


def _accuracies(net: Ensemble, data: SpiralData, config: FeaturesConfig) -> dict[str, Tensor]:
    """Return test accuracies [E] as trained, and with statistics of whole sets of points."""
    test = dense_spiral(config)
    everything = torch.cat([data.labeled, data.unlabeled])
    accuracies = {"test_accuracy": accuracy(net, *test)}
    for name, points in {"labeled": data.labeled, "all": everything}.items():
        refreshed = refresh_statistics(copy.deepcopy(net).eval(), [points])
        accuracies[f"accuracy_{name}_statistics"] = accuracy(refreshed, *test)
    return accuracies


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
    at 8, it excludes 0 for a correlation beyond 0.7 or so only. Pairs with a NaN are left out.

    Returns:
        NaN instead of numbers for fewer than 5 pairs, or where x or y is the same everywhere.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 5 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(np.nan, np.nan, np.nan, len(x))
    drawn = np.random.default_rng(0).integers(len(x), size=(9999, len(x)))
    low, high = np.nanquantile(_spearman(x[drawn], y[drawn]), [0.025, 0.975])
    return Correlation(float(_spearman(x, y)), float(low), float(high), len(x))


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the rank correlation along the last dimension; NaN where all ranks are tied."""
    x, y = (rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (x, y))
    with np.errstate(invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
