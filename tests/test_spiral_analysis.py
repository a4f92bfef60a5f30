"""The numbers behind Figures 2 to 5, where they are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ubnlib import UnsupervisedBatchNorm1d, convert_ubn, spiral_analysis
from ubnlib.spiral import SpiralNet, make_spiral
from ubnlib.training import initialized_by


@pytest.fixture
def net():
    with initialized_by(0):
        return convert_ubn(SpiralNet(width=16))


def test_features_are_what_the_normalizations_give(net):
    points, _ = make_spiral(30, 0.0)
    features = spiral_analysis.normalized_features(net, points)
    net.eval()
    hidden = points
    for i, feature in enumerate(features):
        normalized = net[3 * i + 1](net[3 * i](hidden))
        torch.testing.assert_close(feature, normalized)
        hidden = normalized.relu()
    assert len(features) == 3
    assert not any(n._forward_hooks for n in net.norms)


def test_gap_of_a_known_shift_and_scale():
    """With an identity in front, features are the points themselves."""
    identity = nn.Linear(2, 2)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(2))
        identity.bias.zero_()
    net = SpiralNet(width=2)
    net[0] = identity
    y = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    y = (y - y.mean(0)) / y.std(0, correction=0)
    gap = spiral_analysis.distribution_gap(net, y + 0.7, y).iloc[0]
    assert gap["wasserstein"] == pytest.approx(0.7, abs=1e-3)
    assert gap["mean_gap"] == pytest.approx(0.7, abs=1e-3)
    assert gap["log_std_ratio"] == pytest.approx(0, abs=1e-3)
    gap = spiral_analysis.distribution_gap(net, 3 * y, y).iloc[0]
    assert gap["log_std_ratio"] == pytest.approx(math.log(3), abs=1e-3)


def test_uncertainty_is_zero_when_the_reference_batches_are_equal(net):
    points, _ = make_spiral(20, 0.0)
    whole = dict(samples=5, batch=40, seed=0)  # a permutation of all points each time
    same = spiral_analysis.resampled_probabilities(net, points, points, **whole)
    assert same.shape == (5, 40)
    assert same.std(0).max() < 1e-5
    part = spiral_analysis.resampled_probabilities(net, points, points, samples=5, batch=10, seed=0)
    assert part.std(0).max() > 1e-3


def test_auroc_counts_pairs():
    score = torch.tensor([0.1, 0.4, 0.35, 0.8])
    positive = torch.tensor([False, False, True, True])
    assert spiral_analysis.auroc(score, positive) == pytest.approx(0.75)
    assert math.isnan(spiral_analysis.auroc(score, torch.ones(4, dtype=torch.bool)))


def test_augmentation_recovers_a_known_shift():
    """One normalization only: a shift of the reference batch is undone by that shift."""
    norm = UnsupervisedBatchNorm1d(2)
    model = nn.Sequential(norm)
    before = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    shift = torch.tensor([0.3, -0.2])
    points = torch.tensor([[0.1, 0.0], [-0.4, 0.3]])
    moved, converged = spiral_analysis.implicit_augmentation(
        model, points, before, before + shift, steps=500, tolerance=1e-3
    )
    assert converged.all()
    # softmax of two logits sees their difference only
    difference = (moved - points) @ (1 / before.std(0, correction=0) * torch.tensor([1.0, -1.0]))
    expected = shift @ (1 / before.std(0, correction=0) * torch.tensor([1.0, -1.0]))
    np.testing.assert_allclose(difference, expected.expand(2), atol=0.01)


def test_augmentation_of_an_unchanged_batch_moves_nothing(net):
    points, _ = make_spiral(10, 0.0)
    moved, converged = spiral_analysis.implicit_augmentation(net, points, points, points)
    assert converged.all()
    assert torch.equal(moved, points)


def test_tangent_share_of_known_displacements():
    points, _ = make_spiral(400, 0.0)
    points = points[100:400]
    step = points[1:] - points[:-1]  # along the arm
    along = spiral_analysis.tangent_share(points[:-1], points[:-1] + 0.1 * step)
    assert along.min() > 0.999
    across = torch.stack([step[:, 1], -step[:, 0]], dim=1)
    assert spiral_analysis.tangent_share(points[:-1], points[:-1] + 0.1 * across).max() < 1e-3
    noise = torch.randn(299, 2, generator=torch.Generator().manual_seed(0))
    share = spiral_analysis.tangent_share(points[:-1], points[:-1] + noise).mean()
    assert share == pytest.approx(0.5, abs=0.07)
