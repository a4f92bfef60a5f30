"""The spiral of section 3.3: its points, its net, and the net under one batch's statistics."""

import copy
import math

import pytest
import torch
from torch import nn

from experiments.common.training import initialized_by
from experiments.toy import SpiralNet, make_spiral, split_spiral
from experiments.toy.ensemble import Ensemble
from experiments.toy.points import distance_to_arms, tangent
from experiments.toy.reference import frozen, random_batch
from ubnlib import convert_ubn, monte_carlo_predictions, revert_ubn, ubn_forward
from ubnlib.forward import ubn_layers


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
    kinds = [type(layer) for layer in net]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 4 + [nn.Linear]
    assert net(torch.randn(3, 2)).shape == (3, 2)


def test_dropout_comes_behind_each_relu():
    kinds = [type(layer) for layer in SpiralNet(width=7, dropout=0.1)]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout] * 4 + [nn.Linear]
    assert SpiralNet(width=7, dropout=0.1)[3].p == 0.1


# --- which points are labeled ---------------------------------------------------------------------


def split(labeled_at, labeled=25, unlabeled=200, seed=3):
    return split_spiral(labeled, unlabeled, 0.0, torch.Generator().manual_seed(seed), labeled_at)


def places(points):
    """Where points lie along their arm, as a share: the radius tells."""
    return (points.norm(dim=1) / 5).reshape(2, -1).sort(1).values


def test_even_labels_are_equally_far_apart_and_the_same_for_every_seed():
    data = split("even")
    expected = (9 * torch.arange(25) + 4) / 225  # the middle of each nine
    torch.testing.assert_close(places(data.labeled), expected.expand(2, -1))
    assert all(torch.equal(a, b) for a, b in zip(data, split("even", seed=4), strict=True))


def test_even_labels_where_the_counts_do_not_divide():
    gaps = places(split("even", labeled=7, unlabeled=93).labeled).diff()
    assert gaps.shape == (2, 6)
    assert gaps.min() >= 0.14 - 1e-6 and gaps.max() <= 0.15 + 1e-6  # 100 points, 7 of them labeled


def test_inner_labels_are_a_random_part_of_the_inner_half():
    inner = places(split("inner").labeled)
    assert inner.max() < 0.5
    assert inner.max() > 0.4
    assert not torch.equal(split("inner").labeled, split("inner", seed=4).labeled)
    assert places(split("random").labeled).max() > 0.8
    assert places(split("inner", labeled=20, unlabeled=5).labeled).shape == (2, 20)  # over a half


@pytest.mark.parametrize("labeled_at", ["random", "even", "inner"])
def test_every_way_of_labeling_is_a_partition(labeled_at):
    data = split(labeled_at, labeled=6, unlabeled=11)
    whole, _ = make_spiral(17, 0.0)
    both = torch.cat([data.labeled, data.unlabeled])
    assert sorted(both.tolist()) == sorted(whole.tolist())
    assert data.labels.tolist() == [0] * 6 + [1] * 6
    of_class_0 = {tuple(point) for point in whole[:17].tolist()}
    assert {tuple(point) for point in data.unlabeled[:11].tolist()} <= of_class_0
    assert {tuple(point) for point in data.labeled[:6].tolist()} <= of_class_0


# --- the arms -------------------------------------------------------------------------------------


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
    many = torch.rand(9001, 2, generator=torch.Generator().manual_seed(0)) * 12 - 6
    separately = torch.cat([distance_to_arms(part) for part in many.split(1000)])
    torch.testing.assert_close(distance_to_arms(many), separately)


# --- statistics of one batch ----------------------------------------------------------------------

READINGS = [
    dict(stats_grad="corrected"),
    dict(stats_grad="none"),
    dict(stats_grad="labeled"),
    dict(stats_grad="all"),
    dict(source="running"),
    dict(running_stat="std"),
    dict(momentum=1.0),
]


def trained(options=None, members=2):
    """An ensemble some steps into its training, with a step's statistics still on it."""
    generator = torch.Generator().manual_seed(0)
    with initialized_by(0):
        net = Ensemble([SpiralNet(width=6) for _ in range(members)]).double()
    if options is not None:
        convert_ubn(net, **options)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        x, y = (torch.randn(n, members, 2, generator=generator).double() for n in (8, 20))
        loss = ubn_forward(net, x, None if options is None else y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def rows(count, members=2, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, members, 2, generator=generator).double()


@pytest.mark.parametrize("options", READINGS, ids=str)
def test_frozen_is_monte_carlos_prediction_under_that_batch(options):
    net, reference, points = trained(options), rows(12), rows(5, seed=6)
    expected = monte_carlo_predictions(net, points, [reference])[0]
    torch.testing.assert_close(frozen(net, reference)(points), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [None, *READINGS], ids=str)
def test_frozen_has_what_batch_normalization_gives_in_training(options):
    """At the batch itself, and at each of its points alone."""
    net, reference = trained(options), rows(12)
    plain = revert_ubn(copy.deepcopy(net)).train()
    expected = plain(reference)
    still = frozen(net, reference)
    torch.testing.assert_close(still(reference), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(still(reference[3:4]), expected[3:4], rtol=0, atol=1e-10)


def test_frozen_takes_single_nets():
    net = SpiralNet(width=6)
    reference = torch.randn(9, 2)
    expected = net.train()(reference)
    torch.testing.assert_close(frozen(net, reference)(reference), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [None, *READINGS[:2]], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_frozen_leaves_the_model_as_it_was(options, training):
    net = trained(options).train(training)
    net.layers[0].weight.requires_grad_(False)
    hook = net.layers[1].register_forward_hook(lambda *_: None)
    before = copy.deepcopy(net.state_dict())
    calls = [layer._calls for layer in ubn_layers(net)] if options else []
    state = torch.get_rng_state()
    still = frozen(net, rows(12))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {module.training for module in net.modules()} == {training}
    assert [p.requires_grad for p in net.parameters()].count(False) == 1
    assert [len(module._forward_hooks) for module in net.modules()].count(1) == 1
    assert torch.equal(torch.get_rng_state(), state)
    if options:
        after = (layer._calls for layer in ubn_layers(net))
        assert all(a is b for a, b in zip(calls, after, strict=True)), "last_step must stay"
    assert not any(module.training for module in still.modules())
    assert not any(p.requires_grad for p in still.parameters())
    assert torch.is_grad_enabled()
    hook.remove()


def test_a_frozen_net_can_be_differentiated_by_its_inputs():
    points = rows(5).requires_grad_()
    still = frozen(trained(READINGS[0]), rows(12))
    (gradient,) = torch.autograd.grad(still(points).sum(), points)
    step = 1e-6 * torch.ones_like(points)
    difference = (still(points + step) - still(points - step)).sum((1, 2)) / 2e-6
    torch.testing.assert_close(gradient.sum((1, 2)), difference, rtol=1e-5, atol=1e-5)


def test_random_batch_draws_rows_once_each():
    points = torch.arange(20.0).reshape(10, 2)
    draws = [random_batch(points, 4, torch.Generator().manual_seed(s)) for s in range(200)]
    for draw in draws:
        assert draw.shape == (4, 2)
        assert len({tuple(row) for row in draw.tolist()}) == 4
    counts = torch.cat(draws)[:, 0].long().div(2, rounding_mode="floor").bincount()
    assert len(counts) == 10 and 50 < counts.min() and counts.max() < 115  # 80 expected, +- 7
    again = random_batch(points, 4, torch.Generator().manual_seed(7))
    assert torch.equal(again, draws[7])


def test_random_batch_gives_all_rows_where_there_are_fewer():
    points = torch.randn(5, 3, 2)
    all_rows = random_batch(points, 64, torch.Generator().manual_seed(0))
    assert sorted(all_rows.tolist()) == sorted(points.tolist())
