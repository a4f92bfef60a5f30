"""Figure 4: what uncertainty marks, measured over seeds for several methods."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.common.records import Result, recorded
from experiments.toy.calibration import auroc, brier_score, expected_calibration_error, log_loss
from experiments.toy.points import RADIUS, TURNS, distance_to_arms, make_spiral
from experiments.toy.train import SpiralTraining, dense_spiral
from experiments.toy.uncertainty_methods import UncertaintyConfig, predict, train_nets

SPACING = RADIUS / TURNS / 2  # from an arm to the next one along a radius: 1.43


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
    """Return the places of each seed, about 2,000 points in all.

    Args:
        config: Which seeds, and how noisy the arms are.
        per_class: Points of the dense spiral; of them, about 70 in 100 have a neighbor between.
        side: Points along the grid's side.
    """
    arms, labels = dense_spiral(config, per_class)
    clean, _ = make_spiral(per_class, 0.0)
    radius = clean.norm(dim=1)
    inner = clean[(radius >= SPACING / 2) & (radius <= RADIUS - SPACING / 2)]
    between = torch.stack([inner[:, 1], -inner[:, 0]], dim=1)  # a quarter turn
    axis = torch.linspace(-6, 6, side)
    grid = torch.cartesian_prod(axis, axis)
    outside = grid[distance_to_arms(grid) > SPACING / 2]
    members = len(config.seeds)
    off = [points[:, None].expand(-1, members, -1) for points in (between, outside)]
    return Places(arms, labels, *off)


def scores(probabilities: Tensor) -> dict[str, Tensor]:
    """Return two uncertainties [...] of predicted probabilities [S, ...].

    `doubt` is 1 - the larger class probability of the mean prediction, 0 to 0.5. `spread` is the
    standard deviation of the predictions, Figure 4's; NaN where there is but one.
    """
    mean = probabilities.mean(0)
    several = len(probabilities) > 1
    spread = probabilities.std(0) if several else torch.full_like(mean, torch.nan)
    return {"doubt": torch.minimum(mean, 1 - mean), "spread": spread}


def measure(probabilities: Tensor, at: Places) -> dict[str, list[float | None]]:
    """Return the numbers of each seed, by name.

    `accuracy`, `ece`, `brier` and `log_loss` are those of the mean prediction on the arms. The rest
    are areas under the ROC curve of each score, `doubt` and `spread`; 0.5 is a score that knows
    nothing, and below it the score is lower where it should be higher:

    - `SCORE_error_auroc`: wrong predictions on the arms against right ones;
    - `SCORE_between_auroc`, `SCORE_outside_auroc`: points of these places against the arms.

    None stands where there is no number: no wrong prediction, or no spread.

    Args:
        probabilities: Class 1's [S, N, E], for the points of `arms`, `between` and `outside`.
        at: The places.
    """
    label = at.labels.numpy()
    mean = probabilities.mean(0).numpy()[: len(label)]
    by_score = {name: score.numpy() for name, score in scores(probabilities).items()}
    seeds = []
    for member in range(mean.shape[1]):
        own = mean[:, member]
        numbers = {
            "accuracy": np.mean((own > 0.5) == label),
            "ece": expected_calibration_error(own, label),
            "brier": brier_score(own, label),
            "log_loss": log_loss(own, label),
        }
        for name, score in by_score.items():
            areas = _areas(score[:, member], (own > 0.5) != label, len(at.between))
            numbers |= {f"{name}_{what}_auroc": area for what, area in areas.items()}
        seeds.append(numbers)
    names = seeds[0]
    return {name: [_number(numbers[name]) for numbers in seeds] for name in names}


def _areas(score: np.ndarray, wrong: np.ndarray, between: int) -> dict[str, float]:
    """Return the areas of one seed's score [N] at arms, between and outside."""
    arms, middle, outside = np.split(score, [len(wrong), len(wrong) + between])

    def against_arms(off: np.ndarray) -> float:
        return auroc(np.append(arms, off), np.arange(len(arms) + len(off)) >= len(arms))

    return {
        "error": auroc(arms, wrong),
        "between": against_arms(middle),
        "outside": against_arms(outside),
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


@recorded
def run_uncertainty(config: UncertaintyConfig) -> Result:
    """Train a method's nets, or take those that another method has trained here, and measure."""
    at = places(config)
    points = torch.cat([at.arms, at.between, at.outside])
    return Result(measure(predict(config, train_nets(config), points), at), {})
