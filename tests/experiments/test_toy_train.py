"""The toy experiment: what it trains on, that it is what a plain loop does, and its record."""

import copy
import itertools

import pytest
import torch
from torch import nn

from experiments.common.training import BNConfig, UBNConfig, initialized_by, random_batches
from experiments.toy import train as experiment
from experiments.toy.ensemble import Ensemble
from experiments.toy.spiral import SpiralNet, split_spiral
from experiments.toy.train import (
    SpiralConfig,
    dense_spiral,
    frozen,
    random_batch,
    run_spiral,
    spiral_data,
    train_spiral,
)
from oracle import oracle_training
from ubnlib import convert_ubn, revert_ubn, ubn_forward

PAIR = [BNConfig(), UBNConfig()]
SEEDS = (3, 0, 8)


def small(norm=None, **options):
    settings = dict(
        norm=norm or UBNConfig(),
        steps=20,
        width=8,
        labeled_batch=12,
        unlabeled_batch=20,
        seeds=SEEDS,
    )
    return SpiralConfig(**settings | options)


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def state_of(run):
    return {name: value.clone() for name, value in run.net.state_dict().items()}


def equal(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())


def train_alone(config, seed):
    """Train the net of one seed in a plain loop of torch: no ensemble, no UBN layer."""
    data = split_spiral(
        config.labeled_per_class,
        config.unlabeled_per_class,
        config.noise,
        torch.Generator().manual_seed(seed),
    )
    drawn = seed + 1_000_000 * config.initialization
    torch.manual_seed(drawn)
    net = SpiralNet(config.width)
    for layer in net:
        if isinstance(layer, nn.BatchNorm1d):
            layer.momentum = config.norm.momentum
    rows, others = (
        random_batches(min(size, len(points)), len(points), torch.Generator().manual_seed(drawn))
        for size, points in (
            (config.labeled_batch, data.labeled),
            (config.unlabeled_batch, data.unlabeled),
        )
    )
    batches = []
    for _ in range(config.steps):
        row, other = next(rows), next(others)
        batches.append((data.labeled[row], data.labels[row], data.unlabeled[other]))
    is_ubn = config.norm.kind == "ubn"
    options = config.norm.model_dump(exclude={"kind"}) if is_ubn else None
    return net, oracle_training(net, batches, torch.optim.Adam(net.parameters(), lr=0.01), options)


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        (BNConfig(momentum=0.02), {}),
        (UBNConfig(), dict(noise=0.3, initialization=2)),
        (UBNConfig(source="running", momentum=0.3), {}),
        # Without noise, a batch of all points has mean 0, where one of them lies: on ReLU's kink.
        (UBNConfig(stats_grad="none"),
         dict(labeled_per_class=4, unlabeled_per_class=7, noise=0.1)),
    ],
    ids=["BN", "UBN", "running", "none"],
)  # fmt: skip
def test_each_seed_is_trained_as_in_a_plain_loop(double, norm, options):
    """To 1e-7: Adam makes small steps even of gradients that are nothing but rounding errors."""
    config = small(norm, **options)
    run = train_spiral(config)
    points = torch.randn(50, 2)
    outputs = run.net.eval()(points[:, None].expand(-1, len(SEEDS), -1))
    for e, seed in enumerate(SEEDS):
        net, losses = train_alone(config, seed)
        torch.testing.assert_close(run.losses[:, e], torch.tensor(losses), rtol=0, atol=1e-7)
        torch.testing.assert_close(outputs[:, e], net.eval()(points), rtol=0, atol=1e-6)
        assert abs(losses[-1] - losses[0]) > 0.01, "nothing was learned, so nothing was compared"


def test_training_stops_at_a_loss_that_is_not_finite(monkeypatch):
    data, states = spiral_data(small()), []
    broken = data._replace(labeled=data.labeled * torch.inf)
    monkeypatch.setattr(experiment, "spiral_data", lambda config: broken)
    with pytest.raises(FloatingPointError, match="at step 1: lower the learning rate"):
        train_spiral(small(), after_step=lambda step, net, _: states.append(copy.deepcopy(net)))
    assert len(states) == 1 and all(p.isfinite().all() for p in states[0].parameters())


def test_a_record_has_the_numbers_of_each_seed():
    config = small(steps=45)
    record, run = run_spiral(config), train_spiral(config)
    assert record.curves["loss"] == [
        pytest.approx(run.losses[::2, e].tolist(), abs=1e-4) for e in range(3)
    ]
    points, labels = dense_spiral(config)
    right = (run.net.eval()(points).argmax(-1) == labels[:, None]).double().mean(0)
    assert record.metrics["test_accuracy"] == pytest.approx(right.tolist(), abs=1e-6)
    assert record.metrics["final_loss"] == pytest.approx(run.losses[-50:].mean(0).tolist())


def test_after_step_sees_every_step_and_the_net_as_it_is_then():
    config, seen, states = small(steps=5), [], []

    def look(step, net, data):
        seen.append((step, net, data))
        states.append(net.layers[0].weight.detach().clone())

    run = train_spiral(config, after_step=look)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3, 4, 5]
    assert all(net is run.net and data is run.data for _, net, data in seen)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(states))
    assert torch.equal(states[-1], run.net.layers[0].weight)
    for e, seed in enumerate(SEEDS):
        torch.manual_seed(seed)
        assert torch.equal(states[0][e], SpiralNet(8)[0].weight)
    assert equal(state_of(run), state_of(train_spiral(config))), "looking must change nothing"


def test_batch_normalization_never_sees_unlabeled_points(monkeypatch):
    """Not in its gradients and not in its averages: moving the points changes nothing."""
    before = {norm.kind: state_of(train_spiral(small(norm))) for norm in PAIR}
    true_data = spiral_data(small())
    moved = true_data._replace(unlabeled=true_data.unlabeled + 100)
    monkeypatch.setattr(experiment, "spiral_data", lambda config: moved)
    after = {norm.kind: state_of(train_spiral(small(norm))) for norm in PAIR}
    assert equal(before["bn"], after["bn"])
    assert not equal(before["ubn"], after["ubn"])


def test_dropout_trains_and_is_off_afterwards():
    config = small(dropout=0.2)
    state = torch.get_rng_state()
    run, again, without = (train_spiral(c) for c in (config, config, small()))
    assert equal(state_of(run), state_of(again))
    assert torch.equal(torch.get_rng_state(), state)
    assert (run.losses - without.losses).abs().max() > 0.01
    assert sum(isinstance(layer, nn.Dropout) for layer in run.net.layers) == 4
    points, labels = dense_spiral(config, 100)
    one, two = (experiment.accuracy(run.net, points, labels) for _ in range(2))
    assert torch.equal(one, two)


def test_the_control_takes_labeled_points_for_unlabeled_ones():
    config = SpiralConfig(norm=UBNConfig(), steps=3, seeds=(0, 1), unlabeled_from="labeled")
    data = spiral_data(config)
    other = data._replace(unlabeled=data.unlabeled + 100)
    batches = list(experiment._batches(config, other))
    assert all(others.shape == (50, 2, 2) for _, _, others in batches)  # all that there are
    assert all(others.max() < 10 for _, _, others in batches)


# --- the nets under one batch's statistics --------------------------------------------------------

OPTIONS = [{}, dict(source="running"), dict(running_stat="std")]


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


@pytest.mark.parametrize("options", [None, *OPTIONS], ids=str)
def test_frozen_has_what_batch_normalization_gives_in_training(options):
    """At the batch itself, and at each of its points alone."""
    net, reference = trained(options), rows(12)
    plain = revert_ubn(copy.deepcopy(net)).train()
    expected = plain(reference)
    still = frozen(net, reference)
    torch.testing.assert_close(still(reference), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(still(reference[3:4]), expected[3:4], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("options", "training"), [(None, True), ({}, False)])
def test_frozen_leaves_the_model_as_it_was(options, training):
    net = trained(options).train(training)
    net.layers[0].weight.requires_grad_(False)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    still = frozen(net, rows(12))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {module.training for module in net.modules()} == {training}
    assert [p.requires_grad for p in net.parameters()].count(False) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in still.modules())
    assert not any(p.requires_grad for p in still.parameters())


def test_random_batches_are_each_seeds_own_rows_once_each():
    points = torch.arange(20.0).reshape(10, 2)[:, :, None].expand(-1, -1, 2)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    draws = torch.stack([random_batch(points, 4, generators) for _ in range(200)])
    assert draws.shape == (200, 4, 2, 2)
    for member in (0, 1):
        drawn = draws[:, :, member, 0]
        assert all(len(row.unique()) == 4 for row in drawn)
        counts = drawn.long().flatten().bincount()[member::2]
        assert len(counts) == 10 and 50 < counts.min() and counts.max() < 115  # 80 expected, +- 7
    alone = random_batch(points[:, 1:], 4, [torch.Generator().manual_seed(2)])
    assert torch.equal(alone, draws[0][:, 1:])
    everything = random_batch(points, 64, generators)
    assert torch.equal(everything.sort(0).values, points)
