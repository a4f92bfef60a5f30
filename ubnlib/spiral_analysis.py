"""What section 3.3 looks at in a trained spiral net: the numbers behind Figures 2 to 5."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import mannwhitneyu, wasserstein_distance
from torch import Tensor

from ubnlib.diagnostics import monte_carlo_predictions
from ubnlib.spiral import SpiralNet
from ubnlib.training import evaluating

# --- Figure 2 ---------------------------------------------------------------------------------


def class_probability(net: SpiralNet, points: Tensor) -> Tensor:
    """Return the probability [N] of class 1 at points [N, 2], in evaluation mode."""
    with evaluating(net):
        return net(points).softmax(1)[:, 1]


# --- Figure 3 ---------------------------------------------------------------------------------


def normalized_features(net: SpiralNet, points: Tensor, layers: int = 3) -> list[Tensor]:
    """Return what the first normalizations give at points [N, 2]: `layers` tensors [N, width].

    The net is in evaluation mode, so that every set of points meets the same statistics.
    """
    features: list[Tensor] = []
    hooks = [
        norm.register_forward_hook(lambda _, __, output: features.append(output))
        for norm in net.norms[:layers]
    ]
    try:
        with evaluating(net):
            net(points)
    finally:
        for hook in hooks:
            hook.remove()
    return features


def distribution_gap(net: SpiralNet, labeled: Tensor, unlabeled: Tensor) -> pd.DataFrame:
    """Measure, per layer, how far labeled and unlabeled features lie apart.

    Returns:
        One row a layer, averaged over channels: `wasserstein` distance, `mean_gap`
        |mu_x - mu_y| / sigma_y, and `log_std_ratio` |log sigma_x / sigma_y|; the first two in
        units of the unlabeled standard deviation. Channels that are constant over the unlabeled
        points are left out.
    """
    rows = []
    pairs = zip(normalized_features(net, labeled), normalized_features(net, unlabeled), strict=True)
    for layer, (x, y) in enumerate(pairs, start=1):
        x, y = x.double().numpy(), y.double().numpy()
        varies = (y.std(0) > 1e-6) & (x.std(0) > 1e-6)
        x, y = x[:, varies] / y[:, varies].std(0), y[:, varies] / y[:, varies].std(0)
        distances = [wasserstein_distance(a, b) for a, b in zip(x.T, y.T, strict=True)]
        rows.append(
            {
                "layer": layer,
                "wasserstein": np.mean(distances),
                "mean_gap": np.abs(x.mean(0) - y.mean(0)).mean(),
                "log_std_ratio": np.abs(np.log(x.std(0) / y.std(0))).mean(),
            }
        )
    return pd.DataFrame(rows)


# --- Figure 4 ---------------------------------------------------------------------------------


@torch.no_grad()
def resampled_probabilities(
    net: SpiralNet, points: Tensor, unlabeled: Tensor, *, samples: int, batch: int, seed: int
) -> Tensor:
    """Return class 1's probability [S, N] at points under S random unlabeled batches."""
    generator = torch.Generator().manual_seed(seed)
    references = (
        unlabeled[torch.randperm(len(unlabeled), generator=generator)[:batch]]
        for _ in range(samples)
    )
    return monte_carlo_predictions(net, points, references).softmax(-1)[..., 1]


def auroc(score: Tensor, positive: Tensor) -> float:
    """Return the chance that a positive point scores higher than another; nan without both."""
    if positive.all() or not positive.any():
        return float("nan")
    a, b = score[positive].numpy(), score[~positive].numpy()
    return float(mannwhitneyu(a, b).statistic / (len(a) * len(b)))


# --- Figure 5 ---------------------------------------------------------------------------------


class Augmentation(NamedTuple):
    """Points [N, 2] moved from where they were; `converged` [N] tells whose predictions agree."""

    moved: Tensor
    converged: Tensor


def implicit_augmentation(
    net: SpiralNet,
    points: Tensor,
    before: Tensor,
    after: Tensor,
    *,
    steps: int = 200,
    learning_rate: float = 0.02,
    tolerance: float = 0.02,
) -> Augmentation:
    """Move points until their predictions under new statistics equal those under the old ones.

    The predictions are class probabilities; the inputs are moved by Adam through
    backpropagation, as the paper describes in section 3.3.

    Args:
        net: A trained net with UBN layers.
        points: [N, 2].
        before: Reference batch [M, 2] behind the old statistics.
        after: Reference batch [M, 2] behind the new ones.
        steps: Most updates of the inputs.
        learning_rate: Adam's, in the plane's units.
        tolerance: Largest difference in probability that counts as equal; all points within it
            end the search.
    """
    with torch.no_grad():
        goal = monte_carlo_predictions(net, points, [before])[0].softmax(1)
    moved = points.clone().requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=learning_rate)
    for _ in range(steps):
        prediction = monte_carlo_predictions(net, moved, [after])[0].softmax(1)
        difference = (prediction - goal).abs().amax(1)
        if (difference < tolerance).all():
            break
        loss = (prediction - goal).square().sum()
        optimizer.zero_grad()
        (moved.grad,) = torch.autograd.grad(loss, [moved])
        optimizer.step()
    with torch.no_grad():
        prediction = monte_carlo_predictions(net, moved, [after])[0].softmax(1)
    return Augmentation(moved.detach(), (prediction - goal).abs().amax(1) < tolerance)


def tangent_share(points: Tensor, moved: Tensor) -> Tensor:
    """Return the share [N] of each squared displacement along the spiral's arm; isotropic: 1/2.

    On a clean arm the radius grows with the angle at a constant rate, 5 units in 1.75 turns, which
    gives the tangent at each point but the center.
    """
    rate = 5 / (1.75 * 2 * torch.pi)
    radius = points.norm(dim=1, keepdim=True)
    outward = points / radius
    around = torch.stack([outward[:, 1], -outward[:, 0]], dim=1)  # (sin t, cos t) runs clockwise
    tangent = rate * outward + radius * around
    tangent = tangent / tangent.norm(dim=1, keepdim=True)
    displacement = moved - points
    along = (displacement * tangent).sum(1)
    return along**2 / displacement.square().sum(1)
