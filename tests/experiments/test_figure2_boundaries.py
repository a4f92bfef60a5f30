"""Figure 2's numbers on decision regions that are known."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from experiments.toy.figure2_boundaries import accuracy, class_probability, regions, stretches
from experiments.toy.spiral import make_spiral
from experiments.toy.train import SpiralConfig, spiral_data, train_spiral


class Painted(nn.Module):
    """A "net" for each rule: a function of points [N, 2] that says where class 1 is."""

    def __init__(self, *rules):
        super().__init__()
        self.rules, self.members = rules, len(rules)

    def forward(self, points):
        ones = [rule(points[:, i]) for i, rule in enumerate(self.rules)]
        logit = 8 * torch.stack(ones, 1).float() - 4
        return torch.stack([torch.zeros_like(logit), logit], -1)


def nearest_arm(points):
    arms, labels = make_spiral(2000, 0.0)
    return labels[torch.cdist(points, arms).argmin(1)] == 1


def stripes(points):
    return (points[:, 0] / 1.1).floor() % 2 == 0


def ring(points):
    radius = points.norm(dim=1)
    return (radius > 1) & (radius < 2)


def nowhere(points):
    return torch.zeros(len(points), dtype=torch.bool)


def test_regions_are_counted_for_each_net():
    # The ring leaves a disk and an outside; stripes of width 1.1 are 10 in a disk of diameter 10.
    assert regions(Painted(nearest_arm, stripes, ring, nowhere)).tolist() == [2, 10, 3, 1]


def test_corners_do_not_connect():
    """A chessboard of 4 squares inside the disk: diagonal neighbors are apart."""
    chess = lambda points: (points[:, 0] > 0) == (points[:, 1] > 0)  # noqa: E731
    assert regions(Painted(chess)).item() == 4


def test_the_right_net_bridges_all_stretches():
    config = SpiralConfig(labeled_per_class=10, seeds=(0, 1))
    data = spiral_data(config)
    numbers = stretches(Painted(nearest_arm, nearest_arm), data)
    assert numbers["bridged"].tolist() == [1, 1]
    assert numbers["midpoint_accuracy"].tolist() == [1, 1]


def test_accuracy_is_the_share_of_each_net():
    points, labels = make_spiral(500, 0.0)
    both = points.unsqueeze(1).expand(-1, 2, -1)
    shares = accuracy(Painted(nearest_arm, nowhere), both, labels)
    assert shares.tolist() == pytest.approx([0.999, 0.5])  # both arms begin at the center


def test_numbers_of_a_trained_net_agree_with_brute_force():
    config = SpiralConfig(steps=40, seeds=(5,), labeled_per_class=8)
    net, data, _ = train_spiral(config)
    arms, labels = make_spiral(2000, 0.0)
    right = ((class_probability(net, arms)[:, 0] > 0.5).long() == labels).tolist()
    total = crossed = middles = 0
    for arm in (0, 1):
        chosen = []
        for x, y in data.labeled[data.labels == arm][:, 0].tolist():
            own = [
                math.hypot(x - a, y - b) for a, b in arms[arm * 2000 : (arm + 1) * 2000].tolist()
            ]
            chosen.append(own.index(min(own)))
        chosen.sort()
        for a, b in pairwise(chosen):
            total += 1
            crossed += all(right[arm * 2000 + a : arm * 2000 + b + 1])
            middles += right[arm * 2000 + (a + b) // 2]
    numbers = {name: value.item() for name, value in stretches(net, data).items()}
    assert 0 < crossed <= middles < total
    assert numbers["bridged"] == pytest.approx(crossed / total, abs=1e-6)
    assert numbers["midpoint_accuracy"] == pytest.approx(middles / total, abs=1e-6)
