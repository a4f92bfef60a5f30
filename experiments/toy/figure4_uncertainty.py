"""Figure 4: what uncertainty marks, for several ways to get several predictions of one point.

Each prediction comes from another reference batch, dropout mask or net. Their mean is the method's
prediction; how they vary is its uncertainty.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple, Self

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from pydantic import Field, model_validator
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torch import Tensor, nn

from experiments.common.records import Result, recorded
from experiments.common.style import MUTED, look
from experiments.common.training import BNConfig, NormConfig, UBNConfig, evaluating, initialized_by
from experiments.toy.ensemble import Ensemble
from experiments.toy.plane import mark_legend, show_boundary, show_map, show_points
from experiments.toy.spiral import (
    RADIUS,
    TURNS,
    SpiralData,
    SpiralNet,
    distance_to_arms,
    make_spiral,
    quarter_turn,
)
from experiments.toy.train import (
    SpiralRun,
    SpiralTraining,
    dense_spiral,
    random_batch,
    train_spiral,
)
from ubnlib.convert import convert_ubn
from ubnlib.diagnostics import monte_carlo_predictions

SPACING = RADIUS / TURNS / 2  # from an arm to the next one along a radius: 1.43

Method = Literal["bn", "ubn", "mc_bn", "mc_ubn", "mc_dropout", "bn_ensemble", "ubn_ensemble"]


class Recipe(NamedTuple):
    """What follows from a method where a configuration does not say it."""

    norm: NormConfig
    samples: int
    dropout: float = 0.0


# The dropout is the one of six whose nets (BN, 1000 steps, other settings as by default) were the
# most accurate over seeds 1000 to 1009, which only choices of settings use. Mean accuracy by rate:
# 0.878 (0.02), 0.893 (0.05), 0.887 (0.1), 0.871 (0.2), 0.845 (0.3), 0.781 (0.5); without dropout
# 0.883. The standard deviation over seeds is 0.06: small rates are equally good.
RECIPES: dict[Method, Recipe] = {
    "bn": Recipe(BNConfig(), 1),
    "ubn": Recipe(UBNConfig(), 1),
    "mc_bn": Recipe(BNConfig(), 50),
    "mc_ubn": Recipe(UBNConfig(), 50),
    "mc_dropout": Recipe(BNConfig(), 50, dropout=0.05),
    "bn_ensemble": Recipe(BNConfig(), 5),
    "ubn_ensemble": Recipe(UBNConfig(), 5),
}


class UncertaintyConfig(SpiralTraining):
    """One method, which says what is trained and how it predicts.

    - `bn`, `ubn`: one net, one prediction by the moving averages.
    - `mc_ubn`: the paper's Figure 4; one net, and random unlabeled batches behind the statistics.
    - `mc_bn`: the same with labeled batches (Teye et al. 2018, arXiv:1802.06455).
    - `mc_dropout`: dropout stays on (Gal and Ghahramani 2016, arXiv:1506.02142).
    - `bn_ensemble`, `ubn_ensemble`: nets with other weights and batches for the same data
      (Lakshminarayanan et al. 2017, arXiv:1612.01474).

    Normalization, dropout and samples follow from the method (`RECIPES`) unless they are given.
    """

    version: ClassVar[int] = 1
    experiment: Literal["spiral_uncertainty"] = "spiral_uncertainty"
    method: Method = "mc_ubn"
    samples: int = Field(ge=1)  # predictions of a point; an ensemble has as many nets

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        recipe = RECIPES.get(values.get("method", "mc_ubn"))
        return (recipe._asdict() if recipe else {}) | values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        recipe = RECIPES[self.method]
        if self.norm.kind != recipe.norm.kind:
            raise ValueError(
                f"The nets of {self.method} have {recipe.norm.kind}, and norm says "
                f"{self.norm.kind}: leave norm out, or name another method."
            )
        if (self.dropout > 0) != (recipe.dropout > 0):
            raise ValueError(
                f"{self.method} does not go with dropout={self.dropout}: only mc_dropout has "
                "dropout, and it needs a rate above 0."
            )
        if (self.samples == 1) != (recipe.samples == 1):
            raise ValueError(
                f"{self.method} does not go with samples={self.samples}: bn and ubn predict once, "
                "and the others at least twice."
            )
        return self


@recorded
def run_uncertainty(config: UncertaintyConfig) -> Result:
    """Train a method's nets, or take those that another method has trained here, and measure."""
    at = places(config)
    points = torch.cat([at.arms, at.between, at.outside])
    return Result(measure(predict(config, train_nets(config), points), at), {})


def train_nets(config: UncertaintyConfig) -> list[SpiralRun]:
    """Train what a method needs: one run of all seeds, or as many as its ensemble has nets.

    Methods share nets, so the latest ones are kept for this process, and copies of them returned.
    """
    training = SpiralTraining(**config.model_dump(include=set(SpiralTraining.model_fields)))
    nets = config.samples if config.method.endswith("ensemble") else 1
    starts = range(config.initialization, config.initialization + nets)
    runs = [_trained(training.model_copy(update={"initialization": start})) for start in starts]
    return copy.deepcopy(runs)


@functools.lru_cache(maxsize=16)
def _trained(training: SpiralTraining) -> SpiralRun:
    return train_spiral(training)


def of_one_seed(
    config: UncertaintyConfig, runs: Sequence[SpiralRun], index: int
) -> tuple[UncertaintyConfig, list[SpiralRun]]:
    """Return the configuration and copies of the nets of one seed among many, for `predict`."""
    template = config.norm.apply(SpiralNet(config.width, dropout=config.dropout))
    alone = []
    for net, data, losses in runs:
        labeled, unlabeled = data.labeled[:, [index]], data.unlabeled[:, [index]]
        own = SpiralData(labeled, data.labels, unlabeled)
        alone.append(SpiralRun(Ensemble([net.member(index, template)]), own, losses[:, [index]]))
    return config.model_copy(update={"seeds": (config.seeds[index],)}), alone


@torch.no_grad()
def predict(config: UncertaintyConfig, runs: Sequence[SpiralRun], points: Tensor) -> Tensor:
    """Return a method's probabilities [S, N, E] of class 1 at points [N, E, 2], in float64.

    The batches behind a net's predictions are drawn by its seed, the same at every call, so that
    they do not depend on the nets beside it; dropout draws for all nets at once. The nets are left
    as they were.
    """
    net, data, _ = runs[0]
    if config.method in ("mc_bn", "mc_ubn"):
        kind = "labeled" if config.method == "mc_bn" else "unlabeled"
        pool, size = getattr(data, kind), getattr(config, f"{kind}_batch")
        generators = config.generators(20_000)
        batches = (random_batch(pool, size, generators) for _ in range(config.samples))
        model = convert_ubn(copy.deepcopy(net)) if kind == "labeled" else net
        logits = monte_carlo_predictions(model, points, batches)
    elif config.method == "mc_dropout":
        with initialized_by(20_000 + config.seeds[0]), _dropping(net):
            logits = torch.stack([net(points) for _ in range(config.samples)])
    else:
        logits = torch.stack([_evaluated(run.net, points) for run in runs])
    return logits.double().softmax(-1)[..., 1]


@contextmanager
def _dropping(net: nn.Module) -> Iterator[None]:
    """Put a net into eval mode but for its dropout, and back into its mode."""
    with evaluating(net):
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        yield


def _evaluated(net: Ensemble, points: Tensor) -> Tensor:
    with evaluating(net):
        return net(points)


class Places(NamedTuple):
    """Where uncertainty is measured: points [N, E, 2] of three places, and the labels [N] of arms.

    `arms` is the dense spiral. Off the manifold are two places. `between` is the line midway
    between the arms, without what lies within half a spacing of the center or the rim, where an arm
    is missing on one side. `outside` are the points of a grid over [-6, 6]^2 that lie farther than
    half a spacing (0.71) from both arms; none of them is between arms.
    """

    arms: Tensor
    labels: Tensor
    between: Tensor
    outside: Tensor


def places(config: SpiralTraining, per_class: int = 400, side: int = 41) -> Places:
    """Return the places of each seed, about 2,000 points in all, on a grid of side^2 outside."""
    arms, labels = dense_spiral(config, per_class)
    clean, _ = make_spiral(per_class, 0.0)
    radius = clean.norm(dim=1)
    inner = clean[(radius >= SPACING / 2) & (radius <= RADIUS - SPACING / 2)]
    between = quarter_turn(inner)
    axis = torch.linspace(-6, 6, side)
    grid = torch.cartesian_prod(axis, axis)
    outside = grid[distance_to_arms(grid) > SPACING / 2]
    members = len(config.seeds)
    off = [points[:, None].expand(-1, members, -1) for points in (between, outside)]
    return Places(arms, labels, *off)


def measure(probabilities: Tensor, at: Places) -> dict[str, list[float | None]]:
    """Return the numbers of each seed, by name, of probabilities [S, N, E] of class 1.

    `accuracy`, `ece`, `brier` and `log_loss` are those of the mean prediction on the arms. The rest
    are areas under the ROC curve of each score, `doubt` and `spread`; 0.5 is a score that knows
    nothing, and below it the score is lower where it should be higher:

    - `SCORE_error_auroc`: wrong predictions on the arms against right ones;
    - `SCORE_between_auroc`, `SCORE_outside_auroc`: points of these places against the arms.

    None stands where there is no number: no wrong prediction, or no spread.
    """
    label = at.labels.numpy()
    arms, middle = len(label), len(label) + len(at.between)
    mean = probabilities.mean(0).numpy()[:arms]
    by_score = {name: score.numpy() for name, score in scores(probabilities).items()}
    seeds = []
    for member in range(mean.shape[1]):
        own = mean[:, member]
        wrong = (own > 0.5) != label
        numbers = {
            "accuracy": np.mean(~wrong),
            "ece": expected_calibration_error(own, label),
            "brier": brier_score_loss(label, own),
            "log_loss": log_loss(label, own),
        }
        for name, score in by_score.items():
            on, between, outside = np.split(score[:, member], [arms, middle])
            numbers[f"{name}_error_auroc"] = _auroc(on[~wrong], on[wrong])
            numbers[f"{name}_between_auroc"] = _auroc(on, between)
            numbers[f"{name}_outside_auroc"] = _auroc(on, outside)
        seeds.append(numbers)
    return {
        name: [None if numbers[name] is None else float(numbers[name]) for numbers in seeds]
        for name in seeds[0]
    }


def scores(probabilities: Tensor) -> dict[str, Tensor]:
    """Return two uncertainties [...] of predicted probabilities [S, ...].

    `doubt` is 1 - the larger class probability of the mean prediction, 0 to 0.5. `spread` is the
    standard deviation of the predictions, Figure 4's; NaN where there is but one.
    """
    mean = probabilities.mean(0)
    several = len(probabilities) > 1
    spread = probabilities.std(0) if several else torch.full_like(mean, torch.nan)
    return {"doubt": torch.minimum(mean, 1 - mean), "spread": spread}


def _auroc(low: np.ndarray, high: np.ndarray) -> float | None:
    """Return how often scores that should be high are above those that should be low."""
    score = np.append(low, high)
    if not len(low) or not len(high) or np.isnan(score).any():
        return None
    return roc_auc_score(np.arange(len(score)) >= len(low), score)


def expected_calibration_error(probability: ArrayLike, label: ArrayLike, bins: int = 10) -> float:
    """Return how far probabilities [N] lie from frequencies, on average over bins of equal mass.

    Points are sorted by their probability of class 1 and cut into bins of equally many points; a
    bin's error is |mean probability - share of class 1| (Naeini et al. 2015, with two classes).
    Points of one probability that falls on a cut are shared out evenly, so that their order does
    not matter. Perfect probabilities have an error of about sqrt(2/pi * p (1 - p) / points a bin)
    by chance, and always 1/2 has the classes' imbalance.
    """
    values, which = np.unique(np.asarray(probability, float), return_inverse=True)
    share = np.bincount(which, np.asarray(label, float)) / np.bincount(which)
    order = np.sort(which)
    gap = values[order] - share[order]
    parts = np.array_split(gap, bins)
    return float(sum(abs(part.sum()) for part in parts) / len(gap))


def draw(probabilities: Tensor, data: SpiralData) -> Figure:
    """Draw the standard deviation of probabilities [S, points^2] of class 1 over `plane.plane()`.

    Beside it are the mean prediction's boundary and the net's data: labeled points are filled,
    unlabeled ones hollow.
    """
    figure, axes = plt.subplots(figsize=(4.7, 4.4))
    image = show_map(axes, probabilities.std(0), cmap="viridis", vmin=0)
    show_boundary(axes, probabilities.mean(0), colors="w", linewidths=1)
    axes.scatter(*data.unlabeled.T, s=5, facecolors="none", edgecolors="w", linewidths=0.3)
    show_points(axes, data, unlabeled=False, edge="w")
    mark_legend(figure, ink="w", columns=2)
    figure.colorbar(image, ax=axes, label="standard deviation of P(class 1)")
    figure.set_label(
        "How much the predicted probability of class 1 varies over resampled batches, over the "
        "plane of the spiral (bright: most), with the labeled and unlabeled points and the mean "
        "prediction's class boundary."
    )
    return figure


SCORES = {
    "spread": "standard deviation of the predictions",
    "doubt": "1 - mean prediction's probability",
}


def draw_comparison(table: pd.DataFrame, metrics: dict[str, str]) -> Figure:
    """Draw each method's areas under the ROC curve with their intervals over seeds.

    The table has `method`, `metric` (SCORE_WHAT_auroc), `mean`, `low`, `high`; titles are by WHAT.
    """
    methods = list(table["method"].unique())
    size = (2.5 * len(metrics) + 1.2, 0.34 * len(methods) + 1.3)
    figure, row = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for axes, (what, title) in zip(row[0], metrics.items(), strict=True):
        chance = axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=":")
        for shift, (score, label) in zip((-0.12, 0.12), SCORES.items(), strict=True):
            color, marker, _ = look(score)
            rows = table[table["metric"] == f"{score}_{what}_auroc"].dropna(subset="mean")
            heights = [methods.index(method) + shift for method in rows["method"]]
            axes.hlines(heights, rows["low"], rows["high"], color=color)
            axes.scatter(rows["mean"], heights, color=color, marker=marker, s=18, label=label)
        axes.set(title=title, xlim=(0, 1), xlabel="AUROC", yticks=range(len(methods)))
        axes.set_yticklabels(methods)
    row[0][0].invert_yaxis()
    chance.set_label("knows nothing")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.set_label(
        f"Area under the ROC curve, mean and 95 % interval over seeds, of {len(methods)} methods "
        f"(rows) in telling {', '.join(metrics.values())} (columns): by the {SCORES['spread']} "
        f"(dots) and by {SCORES['doubt']} (squares); 0.5 knows nothing."
    )
    return figure
