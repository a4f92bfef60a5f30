"""Figure 3's numbers against scipy, numpy and closed forms."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import spearmanr, wasserstein_distance

from experiments.common.records import read_record, write_record
from experiments.common.training import BNConfig, UBNConfig, initialized_by
from experiments.toy import figure3_bias as bias
from experiments.toy import figure3_features as figure3
from experiments.toy.ensemble import Ensemble
from experiments.toy.figure2_boundaries import accuracy
from experiments.toy.figure3_features import FeaturesConfig, rank_correlation, run_features
from experiments.toy.spiral import SpiralNet
from experiments.toy.train import dense_spiral, train_spiral


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nets(members, width=6):
    with initialized_by(0):
        return Ensemble([SpiralNet(width) for _ in range(members)])


# --- Distances ----------------------------------------------------------------------------------


def by_hand(x, y):
    """The three distances of columns of x and y, one channel after the other."""
    each = [
        (
            wasserstein_distance(a / b.std(), b / b.std()),
            abs(a.mean() - b.mean()) / b.std(),
            abs(math.log(a.std() / b.std())),
        )
        for a, b in zip(x.T, y.T, strict=True)
    ]
    return np.mean(each, axis=0)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(5, 40), seed=st.integers(0, 10_000), rounded=st.booleans())
def test_distances_are_scipys_of_each_channel(rows, seed, rounded):
    """Also with ties, which rounded values have."""
    values = normal(rows, 2, 3, seed=seed) * 3 + 1
    values = values.round() + 1e-3 * torch.arange(rows)[:, None, None] if rounded else values
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(2, rows - 2, (), generator=generator))
    chosen = torch.rand(4, rows, 2, generator=generator).argsort(1).argsort(1) < size
    gap = figure3.feature_gap(values, chosen)
    for member in range(2):
        each = [
            by_hand(*(values[part[:, member], member].numpy() for part in (draw, ~draw)))
            for draw in chosen
        ]
        ours = [distance[member].item() for distance in gap[:3]]
        np.testing.assert_allclose(ours, np.mean(each, 0), rtol=1e-9, atol=1e-9)
    assert (gap.channels == 3).all()


def test_constant_channels_are_left_out_and_counted():
    x, y = normal(10, 1, 3), normal(30, 1, 3, seed=1)
    alone = figure3.labeled_gap(x[..., :1], y[..., :1])
    y[..., 1] = 5.0
    x[..., 2] = -2.0
    gap = figure3.labeled_gap(x, y)
    assert gap.channels.tolist() == [1]
    for some, all_channels in zip(alone[:3], gap[:3], strict=True):
        torch.testing.assert_close(some, all_channels)
    nothing = figure3.labeled_gap(x[..., 1:], y[..., 1:])
    assert nothing.channels.tolist() == [0]
    assert all(distance.isnan().all() for distance in nothing[:3])


def test_random_parts_are_drawn_as_labeled_points_are():
    parts = figure3.random_parts(40, 5, 300, seeds=[3, 4])
    assert parts.shape == (300, 40, 2)
    assert (parts[:, :20].sum(1) == 5).all()
    assert (parts[:, 20:].sum(1) == 5).all()
    shares = parts.double().mean(0)
    assert shares.min() > 0.25 - 0.1
    assert shares.max() < 0.25 + 0.1
    assert not torch.equal(parts[..., 0], parts[..., 1])
    assert torch.equal(parts[..., 1:], figure3.random_parts(40, 5, 300, seeds=[4]))


def test_chance_is_what_sampling_theory_says():
    """|gap| of means of n and m normal values: sqrt(2 / pi) sqrt(1 / n + 1 / m) deviations."""
    values = normal(400, 10, 40)
    chance = figure3.feature_gap(values, figure3.random_parts(400, 25, 10, range(10)))
    expected = math.sqrt(2 / math.pi * (1 / 50 + 1 / 350))
    assert chance.mean_gap.mean() == pytest.approx(expected, rel=0.03)
    others = normal(50, 10, 40, seed=1)
    ratio = figure3.labeled_gap(others, values).wasserstein / chance.wasserstein
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    ratio = figure3.labeled_gap(others + 0.5, values).wasserstein / chance.wasserstein
    assert ratio.min() > 2


# --- Statistics ---------------------------------------------------------------------------------


def forward_by_hand(net, member, batch, population):
    """Each layer's moments of a batch and of the population normalized by it, in float64."""
    alone = net.member(member, SpiralNet(6)).double()
    x, p = batch[:, member].double(), population[:, member].double()
    for i in range(4):
        x, p = alone[3 * i](x), alone[3 * i](p)
        mean, var = x.mean(0), x.var(0, correction=0) + 1e-5
        true_mean, true_var = p.mean(0), p.var(0, correction=0) + 1e-5
        yield (mean - true_mean) / true_var.sqrt(), (var / true_var).log() / 2
        x, p = (((value - mean) / var.sqrt()).relu() for value in (x, p))


def test_mean_square_errors_are_bias_and_spread():
    net, population = nets(2), normal(50, 2, 2).float()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batches = [normal(8, 2, 2, seed=seed).float() + 0.3 for seed in range(1, 7)]
    errors = bias.statistics_errors(net, batches, population)
    assert len(errors) == 4
    for member in range(2):
        runs = [list(forward_by_hand(net, member, batch, population)) for batch in batches]
        for layer, error in enumerate(errors):
            for kind, (common, spread) in enumerate((error[:2], error[2:])):
                seen = torch.stack([run[layer][kind].detach() for run in runs])  # [batches, C]
                mean_square = common[member] ** 2 + spread[member] ** 2
                torch.testing.assert_close(mean_square, (seen**2).mean(), rtol=1e-3, atol=1e-6)
                expected = seen.var(0).mean().sqrt()
                torch.testing.assert_close(spread[member], expected, rtol=1e-3, atol=1e-6)
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_errors_of_random_batches_are_what_sampling_theory_says():
    """The first layer's channels are linear in the points, here normal ones."""
    population, net = normal(1000, 40, 2).float(), nets(40, width=4)
    labeled = normal(50, 40, 2, seed=1).float()
    rows = [torch.randint(50, (10,), generator=torch.Generator().manual_seed(s)) for s in range(60)]
    error, *_ = bias.statistics_errors(net, [labeled[row] for row in rows], population)
    assert (error.mean_bias**2).mean().sqrt() == pytest.approx(1 / 50**0.5, rel=0.3)
    assert (error.mean_spread**2).mean().sqrt() == pytest.approx(1 / 10**0.5, rel=0.05)


# --- The study ----------------------------------------------------------------------------------

SMALL = dict(
    width=8, steps=12, checkpoints=(0.25,), chance_draws=3, statistics_batches=4, labeled_batch=16
)


@pytest.fixture(scope="module", params=[BNConfig(), UBNConfig()], ids=["bn", "ubn"])
def study(request):
    config = FeaturesConfig(norm=request.param, seeds=(0, 1, 2), **SMALL)
    return config, run_features(config)


def test_looking_changes_nothing(study):
    config, record = study
    for dropout in (0.0, 0.3):
        config = FeaturesConfig(**config.model_dump() | {"dropout": dropout})
        seen = run_features(config) if dropout else record
        run = train_spiral(config)
        assert seen.metrics["test_accuracy"] == accuracy(run.net, *dense_spiral(config)).tolist()


def test_the_curves_are_the_numbers_at_each_look(study):
    config, record = study
    assert record.curves["step"] == [[0, 3, 12]] * 3
    net, data, _ = train_spiral(config)
    last = figure3.layer_numbers(net, data, config)
    first = figure3.layer_numbers(
        train_spiral(config.model_copy(update={"learning_rate": 0.0})).net, data, config
    )
    for (measure, part), layers in last.items():
        assert len(layers) == 4
        for layer in range(4):
            curve = np.array(record.curves[f"{measure}.{part}.{layer + 1}"])
            np.testing.assert_allclose(curve[:, -1], layers[layer])
            np.testing.assert_allclose(curve[:, 0], first[measure, part][layer], atol=1e-9)
        mean = torch.stack(layers).mean(0)
        np.testing.assert_allclose(record.metrics[f"{measure}_{part}_end"], mean)


def test_the_table_has_every_number_once(study, tmp_path):
    record = read_record(write_record(study[1], tmp_path))
    table = figure3.feature_table(record)
    key = ["seed", "step", "measure", "part", "layer"]
    assert not table.duplicated(key).any()
    assert len(table) == 3 * 3 * 4 * (3 * 2 + 1 + 2 * 2)
    row = table.set_index(key).loc[(1, 3, "scale", "bias", 4), "value"]
    assert row == record.curves["scale.bias.4"][1][1]


def test_a_configuration_has_room_for_chance():
    with pytest.raises(ValidationError, match="must be below unlabeled_per_class"):
        FeaturesConfig(labeled_per_class=30, unlabeled_per_class=30)
    assert FeaturesConfig(steps=10, checkpoints=(0, 0.5, 1)).looks == [0, 5, 10]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=5, max_size=20))
def test_rank_correlation_is_scipys(pairs):
    x, y = np.array(pairs, float).T
    ours = rank_correlation([*x, np.nan], [*y, 1.0])
    assert ours.count == len(pairs)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(ours[:3]).all()
    else:
        assert ours.value == pytest.approx(spearmanr(x, y).statistic)
        assert -1 - 1e-9 <= ours.low <= ours.high <= 1 + 1e-9


def test_rank_correlation_has_an_interval():
    x = normal(30).numpy()
    noise = normal(30, seed=1).numpy()
    related, unrelated = rank_correlation(x, x + 0.5 * noise), rank_correlation(x, noise)
    assert 0.5 < related.low < related.value < related.high < 1
    assert unrelated.low < 0 < unrelated.high
    assert np.isnan(rank_correlation(x[:4], noise[:4])[:3]).all()


# --- Figures ------------------------------------------------------------------------------------


def test_histograms_integrate_to_one_and_share_their_bins():
    matplotlib.use("agg")
    kinds = {"BN": [("labeled", 50), ("unlabeled", 400)], "UBN": [("labeled", 9)]}
    blocks = {
        net: {name: list(normal(2, size, seed=i)) for i, (name, size) in enumerate(sets)}
        for net, sets in kinds.items()
    }
    figure, table = figure3.draw_histograms(blocks)
    assert len(figure.axes) == 2 * 2 + 2
    place = ["net", "layer", "points"]
    area = (table["density"] * (table["right"] - table["left"])).groupby([table[c] for c in place])
    np.testing.assert_allclose(area.sum(), 1.0)
    assert len(area) == 6
    edges = table[table["net"] == "BN"].groupby(["layer", "points"])["left"].apply(list)
    assert edges[1, "labeled"] == edges[1, "unlabeled"] != edges[2, "labeled"]
    mean = table.set_index(place)["mean"].loc["BN", 2, "unlabeled"].unique()
    assert mean == pytest.approx(blocks["BN"]["unlabeled"][1].mean().item())
    matplotlib.pyplot.close(figure)
