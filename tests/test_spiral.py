"""The spiral of section 3.3."""

import math

import pytest
import torch
from torch import nn

from ubnlib.spiral import SpiralNet, make_spiral, split_spiral


def test_points_follow_the_playgrounds_formula():
    points, labels = make_spiral(40, 0.0)
    for delta, arm in ((0.0, 0), (math.pi, 1)):
        for i in range(40):
            r, t = 5 * i / 40, 1.75 * 2 * math.pi * i / 40 + delta
            expected = (r * math.sin(t), r * math.cos(t))
            assert points[40 * arm + i].tolist() == pytest.approx(expected, abs=1e-5)
            assert labels[40 * arm + i] == arm


def test_noise_is_uniform_and_comes_from_the_generator():
    clean, _ = make_spiral(5000, 0.0)
    noisy = [make_spiral(5000, 0.3, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    noise = noisy[0] - clean
    assert noise.abs().max() <= 0.3 + 1e-6
    assert noise.std() == pytest.approx(0.3 / 3**0.5, rel=0.02)
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])


@pytest.mark.parametrize(("points", "noise"), [(0, 0.0), (5, -0.1)])
def test_impossible_spirals_are_refused(points, noise):
    with pytest.raises(ValueError, match="points_per_class >= 1 and noise >= 0"):
        make_spiral(points, noise)


def test_split_is_a_partition_with_the_right_labels():
    data = split_spiral(25, 200, 0.0, torch.Generator().manual_seed(3))
    assert data.labeled.shape == (50, 2)
    assert data.unlabeled.shape == (400, 2)
    assert data.labels.bincount().tolist() == [25, 25]
    whole, labels = make_spiral(225, 0.0)
    both = torch.cat([data.labeled, data.unlabeled])
    key = lambda points: sorted(map(tuple, points.tolist()))  # noqa: E731
    assert key(both) == key(whole)
    for point, label in zip(data.labeled, data.labels, strict=True):
        index = (whole == point).all(1).nonzero()
        assert label in labels[index]


def test_net_has_five_layers_and_four_norms():
    net = SpiralNet(width=7)
    linears = [m for m in net if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(2, 7), *[(7, 7)] * 3, (7, 2)]
    assert [type(n) for n in net.norms] == [nn.BatchNorm1d] * 4
    assert net(torch.randn(3, 2)).shape == (3, 2)
