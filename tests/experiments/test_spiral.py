"""The spiral of section 3.3: its points and its net."""

import math

import pytest
import torch
from torch import nn

from experiments.toy.spiral import (
    SpiralNet,
    distance_to,
    distance_to_arms,
    make_spiral,
    split_spiral,
    tangent,
)


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


def test_net_has_five_layers_and_four_norms():
    net = SpiralNet(width=7)
    linears = [m for m in net if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(2, 7), *[(7, 7)] * 3, (7, 2)]
    kinds = [type(layer) for layer in net]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 4 + [nn.Linear]
    assert net(torch.randn(3, 2)).shape == (3, 2)
    kinds = [type(layer) for layer in SpiralNet(width=7, dropout=0.1)]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout] * 4 + [nn.Linear]
    assert SpiralNet(width=7, dropout=0.1)[3].p == 0.1


def test_labels_are_a_random_part_of_each_class_and_the_parts_are_the_whole():
    data, again = (split_spiral(6, 11, 0.0, torch.Generator().manual_seed(s)) for s in (3, 4))
    whole, _ = make_spiral(17, 0.0)
    both = torch.cat([data.labeled, data.unlabeled])
    assert sorted(both.tolist()) == sorted(whole.tolist())
    assert not torch.equal(data.labeled, again.labeled)
    assert data.labels.tolist() == [0] * 6 + [1] * 6
    of_class_0 = {tuple(point) for point in whole[:17].tolist()}
    assert {tuple(point) for point in data.unlabeled[:11].tolist()} <= of_class_0
    assert {tuple(point) for point in data.labeled[:6].tolist()} <= of_class_0


def test_tangent_is_the_arms_direction():
    points, _ = make_spiral(4000, 0.0)
    for arm in points.double().split(4000):
        inside = arm[200:-1]  # near the center, differences are too coarse
        steps = arm[201:] - inside
        along = steps / steps.norm(dim=1, keepdim=True)
        assert (tangent(inside) * along).sum(1).min() > 0.999
        torch.testing.assert_close(tangent(inside).norm(dim=1), torch.ones(len(inside)).double())


def test_distance_to_arms_is_that_to_the_nearest_point():
    points, _ = make_spiral(50, 0.0)
    assert distance_to_arms(points).max() < 0.01
    some = points[[10, 30, 49, 80]].double()
    across = torch.stack([tangent(some)[:, 1], -tangent(some)[:, 0]], 1)
    moved = (some + 0.3 * across).float()  # neighboring turns are 1.4 away
    assert distance_to_arms(moved).tolist() == pytest.approx([0.3] * 4, abs=0.01)
    assert distance_to_arms(torch.tensor([[0.0, 9.0]])).item() > 4
    many = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) * 12 - 6
    brute = torch.cdist(many, make_spiral(20_000, 0.0)[0]).amin(1)
    torch.testing.assert_close(distance_to_arms(many), brute, atol=0.03, rtol=0)
    assert distance_to(many, many[:0]).isnan().all()
