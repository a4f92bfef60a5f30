"""The toy experiment: what it trains on, that it is what a plain loop does, and its record."""

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from experiments.common.records import read_records, write_record
from experiments.common.training import BNConfig, UBNConfig, random_batches
from experiments.toy import SpiralNet, make_spiral, split_spiral
from experiments.toy import train as experiment
from experiments.toy.train import (
    SpiralConfig,
    SpiralTraining,
    dense_spiral,
    member_data,
    run_spiral,
    spiral_data,
    train_spiral,
)
from oracle import oracle_training

METHODS = {
    "BN": BNConfig(),
    "slow BN": BNConfig(momentum=0.02),
    "corrected": UBNConfig(),
    "none": UBNConfig(stats_grad="none"),
    "labeled": UBNConfig(stats_grad="labeled"),
    "all": UBNConfig(stats_grad="all"),
    "running": UBNConfig(source="running", momentum=0.3),
    "deviations": UBNConfig(running_stat="std"),
}
PAIR = [BNConfig(), UBNConfig()]
SEEDS = (3, 0, 8)


def small(norm=METHODS["corrected"], **options):
    settings = dict(norm=norm, steps=20, width=8, labeled_batch=12, unlabeled_batch=20, seeds=SEEDS)
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


# --- what is trained ------------------------------------------------------------------------------


def train_alone(config, seed, optimizer_of):
    """Train the net of one seed in a plain loop of torch: no ensemble, no UBN layer, no fit."""
    data = split_spiral(
        config.labeled_per_class,
        config.unlabeled_per_class,
        config.noise,
        torch.Generator().manual_seed(seed),
        config.labeled_at,
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
    return net, oracle_training(net, batches, optimizer_of(net.parameters()), options)


ADAM = ("adam", lambda parameters: torch.optim.Adam(parameters, lr=0.01))
SGD = ("sgd", lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9))
CASES = [
    *((name, ADAM, {}) for name in METHODS),
    *((name, SGD, {}) for name in ("BN", "corrected", "none")),
    ("corrected", ADAM, dict(labeled_at="even", noise=0.3, initialization=2)),
    # Without noise, a batch of all points has mean 0, where one of them lies: on a kink of ReLU.
    ("none", SGD, dict(labeled_at="inner", labeled_per_class=4, unlabeled_per_class=7, noise=0.1)),
]


@pytest.mark.parametrize(
    ("method", "optimizer", "options"),
    [pytest.param(*case, id=f"{case[0]}-{case[1][0]}-{len(case[2])}") for case in CASES],
)
def test_each_seed_is_trained_as_in_a_plain_loop(double, method, optimizer, options):
    """To 1e-7: Adam makes small steps even of gradients that are nothing but rounding errors."""
    name, optimizer_of = optimizer
    config = small(METHODS[method], optimizer=name, **options)
    run = train_spiral(config)
    points = torch.randn(50, 2)
    outputs = run.net.eval()(points[:, None].expand(-1, len(SEEDS), -1))
    for e, seed in enumerate(SEEDS):
        net, losses = train_alone(config, seed, optimizer_of)
        torch.testing.assert_close(run.losses[:, e], torch.tensor(losses), rtol=0, atol=1e-7)
        torch.testing.assert_close(outputs[:, e], net.eval()(points), rtol=0, atol=1e-6)
        assert abs(losses[-1] - losses[0]) > 0.01, "nothing was learned, so nothing was compared"


def test_seeds_train_as_they_would_in_any_company():
    """In single precision, over ten steps: losses to 1e-4."""
    config = small(steps=10)
    losses = train_spiral(config).losses
    for e, seed in enumerate(SEEDS):
        alone = train_spiral(config.model_copy(update=dict(seeds=(seed,)))).losses[:, 0]
        torch.testing.assert_close(losses[:, e], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", PAIR, ids=["BN", "UBN"])
def test_a_run_is_a_function_of_its_configuration(norm):
    config = small(norm)
    torch.manual_seed(0)
    one = run_spiral(config)
    torch.manual_seed(1)
    two = run_spiral(config)
    assert one.metrics == two.metrics and one.curves == two.curves
    first, *_, last = zip(*one.curves["loss"], strict=True)
    assert sum(last) < sum(first)


def test_torchs_generator_is_left_alone():
    state = torch.get_rng_state()
    run_spiral(small(steps=2, dropout=0.2))
    assert torch.equal(torch.get_rng_state(), state)


def test_losses_are_those_of_each_step_and_seed():
    run = train_spiral(small(steps=7))
    assert run.losses.shape == (7, 3) and not run.losses.requires_grad
    assert (run.losses[0] - 0.7).abs().max() < 0.5  # two classes, nothing learned
    assert run.losses[0].unique().numel() == 3


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


# --- what methods share ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if name != "BN"])
def test_methods_of_one_seed_differ_by_the_method_only(method):
    configs = small(BNConfig()), small(METHODS[method])
    starts, data = [], []
    for config in configs:
        run = train_spiral(config.model_copy(update=dict(learning_rate=0.0, steps=1)))
        starts.append(list(run.net.parameters()))
        data.append(run.data)
    assert all(torch.equal(a, b) for a, b in zip(*starts, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*data, strict=True))
    pairs = (experiment._batches(config, data[0]) for config in configs)
    for bn, other in zip(*pairs, strict=True):
        assert torch.equal(bn.labeled, other.labeled) and torch.equal(bn.target, other.target)
        assert (other.unlabeled is None) == (configs[1].norm.kind == "bn")


def test_batch_normalization_never_sees_unlabeled_points(monkeypatch):
    """Not in its gradients and not in its averages: moving the points changes nothing."""
    before = {norm.kind: state_of(train_spiral(small(norm))) for norm in PAIR}
    true_data = spiral_data(small())
    moved = true_data._replace(unlabeled=true_data.unlabeled + 100)
    monkeypatch.setattr(experiment, "spiral_data", lambda config: moved)
    after = {norm.kind: state_of(train_spiral(small(norm))) for norm in PAIR}
    assert equal(before["bn"], after["bn"])
    assert not equal(before["ubn"], after["ubn"])


def test_batches_go_through_each_seeds_own_points():
    config = small(steps=50)
    data = spiral_data(config)
    batches = list(experiment._batches(config, data))
    assert len(batches) == 50
    for e in range(len(SEEDS)):
        at = map(tuple, data.labeled[:, e].tolist())
        points = dict(zip(at, data.labels.tolist(), strict=True))
        others = {tuple(p) for p in data.unlabeled[:, e].tolist()}
        for batch in batches:
            labeled, target = batch.labeled[:, e].tolist(), batch.target[:, e].tolist()
            assert len(labeled) == 12 and batch.unlabeled.shape == (20, 3, 2)
            assert [points[tuple(point)] for point in labeled] == target
            assert {tuple(point) for point in batch.unlabeled[:, e].tolist()} <= others
        seen = torch.cat([batch.labeled[:, e] for batch in batches]).tolist()
        counts = [seen.count(list(point)) for point in points]
        assert sum(counts) == 600 and set(counts) == {12}, "50 points, 12 epochs"


def test_batches_larger_than_the_data_are_all_of_it():
    config = small(labeled_per_class=3, unlabeled_per_class=5, labeled_batch=16, unlabeled_batch=64)
    data = spiral_data(config)
    for batch in experiment._batches(config, data):
        for e in range(len(SEEDS)):
            assert sorted(batch.labeled[:, e].tolist()) == sorted(data.labeled[:, e].tolist())
            assert sorted(batch.unlabeled[:, e].tolist()) == sorted(data.unlabeled[:, e].tolist())
    assert train_spiral(config).losses.isfinite().all()


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("labeled_at", ["random", "even", "inner"])
def test_each_seed_has_the_data_it_would_have_alone(labeled_at):
    config = small(labeled_at=labeled_at, noise=0.2, labeled_per_class=9, unlabeled_per_class=30)
    data = spiral_data(config)
    assert data.labeled.shape == (18, 3, 2) and data.unlabeled.shape == (60, 3, 2)
    for e, seed in enumerate(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        alone = split_spiral(9, 30, 0.2, generator, labeled_at)
        assert all(torch.equal(a, b) for a, b in zip(member_data(data, e), alone, strict=True))


def test_test_points_are_dense_and_drawn_apart_from_the_training():
    config = small(noise=0.2)
    points, labels = dense_spiral(config, points_per_class=225)
    assert points.shape == (450, 3, 2) and labels.bincount().tolist() == [225, 225]
    clean, _ = make_spiral(225, 0.0)
    noise = points - clean[:, None]
    assert noise.abs().max() <= 0.2 + 1e-6 and noise.abs().mean() == pytest.approx(0.1, rel=0.1)
    data = spiral_data(config)
    seen = torch.cat([data.labeled, data.unlabeled]).transpose(0, 1)
    assert torch.cdist(points.transpose(0, 1), seen).min() > 0
    assert not torch.equal(points[:, 0], points[:, 1])
    assert torch.equal(
        dense_spiral(config.model_copy(update=dict(norm=BNConfig())), 225)[0], points
    )


# --- options --------------------------------------------------------------------------------------


def test_another_initialization_draws_other_weights_and_batches_for_the_same_data():
    config = small(steps=3)
    other = config.model_copy(update=dict(initialization=1))
    one, two = (train_spiral(some) for some in (config, other))
    assert all(torch.equal(a, b) for a, b in zip(one.data, two.data, strict=True))
    starts = [
        train_spiral(c.model_copy(update=dict(learning_rate=0.0))).net for c in (config, other)
    ]
    first, second = (net.layers[0].weight for net in starts)
    assert not any(torch.equal(a, b) for a in first for b in second)
    batches = (experiment._batches(some, one.data) for some in (config, other))
    for a, b in zip(*batches, strict=True):
        assert not torch.equal(a.labeled, b.labeled) and not torch.equal(a.unlabeled, b.unlabeled)


@pytest.mark.parametrize("norm", PAIR, ids=["BN", "UBN"])
def test_dropout_trains_and_is_off_afterwards(norm):
    config = small(norm, dropout=0.2)
    run, again, without = (train_spiral(c) for c in (config, config, small(norm)))
    assert equal(state_of(run), state_of(again))
    assert (run.losses - without.losses).abs().max() > 0.01
    assert sum(isinstance(layer, nn.Dropout) for layer in run.net.layers) == 4
    points, labels = dense_spiral(config, 100)
    one, two = (experiment.accuracy(run.net, points, labels) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(seeds=()),
        dict(seed=1),
        dict(labeled_at="outer"),
        dict(labeled_batch=1),
        dict(steps=0),
        dict(dropout=1.0),
        dict(noise=-0.1),
        dict(optimizer="lbfgs"),
        dict(norm={"kind": "bn", "stats_grad": "none"}),
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SpiralConfig(**wrong)


def test_analyses_of_their_own_take_the_same_training():
    class OtherConfig(SpiralTraining):
        experiment: str = "other"
        samples: int = 5

    options = small().model_dump(exclude={"experiment"})
    one, two = train_spiral(small()), train_spiral(OtherConfig(**options))
    assert equal(state_of(one), state_of(two))


# --- the record -----------------------------------------------------------------------------------


def test_a_record_has_a_row_for_each_seed(tmp_path):
    config = small(steps=45)
    record = run_spiral(config)
    run = train_spiral(config)
    assert record.seeds == list(SEEDS)
    assert record.curves["loss"] == [
        pytest.approx(run.losses[::2, e].tolist(), abs=1e-4) for e in range(3)
    ]
    write_record(record, tmp_path)
    table = read_records(tmp_path, "spiral")
    assert table["seed"].tolist() == list(SEEDS)
    assert set(table["norm.kind"]) == {"ubn"} and set(table["width"]) == {8}
    points, labels = dense_spiral(config)
    logits = run.net.eval()(points)
    right = (logits.argmax(-1) == labels[:, None]).double().mean(0)
    assert table["test_accuracy"].tolist() == pytest.approx(right.tolist(), abs=1e-6)
    assert table["final_loss"].tolist() == pytest.approx(run.losses[-50:].mean(0).tolist())
    assert table[["labeled_accuracy", "bridged", "midpoint_accuracy"]].stack().between(0, 1).all()
    assert (table["regions"] >= 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", PAIR, ids=["BN", "UBN"])
def test_both_methods_learn_the_spiral(norm):
    """Every one of four seeds well above chance, which is 0.5, and on the labeled points too."""
    metrics = run_spiral(SpiralConfig(norm=norm, steps=400, seeds=range(100, 104))).metrics
    assert min(metrics["test_accuracy"]) > 0.65
    assert min(metrics["labeled_accuracy"]) > 0.9


def test_the_control_takes_labeled_points_for_unlabeled_ones():
    config = SpiralConfig(norm=UBNConfig(), steps=3, seeds=(0, 1), unlabeled_from="labeled")
    data = spiral_data(config)
    other = data._replace(unlabeled=data.unlabeled + 100)
    batches = list(experiment._batches(config, other))
    assert all(batch.unlabeled.shape == (50, 2, 2) for batch in batches)  # all that there are
    assert all(batch.unlabeled.max() < 10 for batch in batches)
