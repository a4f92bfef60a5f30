"""Figure 4: the methods' predictions, and what is measured of them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from experiments.common.training import BNConfig, UBNConfig
from experiments.toy.figure4_uncertainty import (
    Places,
    UncertaintyConfig,
    _auroc,
    _trained,
    expected_calibration_error,
    measure,
    of_one_seed,
    places,
    predict,
    train_nets,
)
from experiments.toy.spiral import distance_to_arms, make_spiral
from experiments.toy.train import SpiralTraining, frozen, random_batch, spiral_data, train_spiral

# --- Numbers -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=25))
def test_auroc_is_that_of_brute_force_also_with_ties(points):
    ours = [score for score, positive in points if positive]
    others = [score for score, positive in points if not positive]
    wins = [(a > b) + (a == b) / 2 for a, b in itertools.product(ours, others)]
    expected = pytest.approx(np.mean(wins), abs=1e-12) if wins else None
    assert _auroc(np.array(others, float), np.array(ours, float)) == expected
    assert _auroc(np.array([0.0, np.nan]), np.array([1.0])) is None


def test_calibration_error_of_perfect_probabilities_is_chance():
    generator = np.random.default_rng(0)
    probability = generator.uniform(size=40_000)
    label = generator.uniform(size=40_000) < probability
    error = expected_calibration_error(probability, label)
    assert error == pytest.approx(math.sqrt(2 / math.pi / 6 / 4000), abs=0.004)  # E[p (1-p)] = 1/6
    halves = np.arange(2).repeat(500)
    assert expected_calibration_error(halves, halves) == 0
    assert expected_calibration_error(1 - halves, halves) == 1


def test_calibration_error_has_bins_of_equal_mass():
    """Overconfident by 0.1 above one half and underconfident by 0.2 below it."""
    probability = np.concatenate([np.linspace(0.21, 0.4, 300), np.linspace(0.6, 0.8, 700)])
    label = np.concatenate([np.arange(300) % 10 < 1, np.arange(700) % 10 < 6])
    expected = 0.3 * (0.305 - 0.1) + 0.7 * (0.7 - 0.6)
    assert expected_calibration_error(probability, label) == pytest.approx(expected, abs=1e-9)
    assert expected_calibration_error(probability, label, 1) == pytest.approx(
        abs(probability.mean() - label.mean()), abs=1e-12
    )


def test_calibration_error_does_not_depend_on_the_order_of_points():
    generator = np.random.default_rng(1)
    probability, label = generator.integers(0, 4, 97) / 3, generator.integers(0, 2, 97)
    order = generator.permutation(97)
    first = expected_calibration_error(probability, label)
    assert expected_calibration_error(probability[order], label[order]) == pytest.approx(first)


# --- Configurations ------------------------------------------------------------------------------


def test_a_method_says_what_is_trained():
    config = UncertaintyConfig(method="mc_dropout")
    assert (config.norm.kind, config.samples, config.dropout) == ("bn", 50, 0.05)
    config = UncertaintyConfig(method="ubn_ensemble", norm=UBNConfig(stats_grad="none"), samples=3)
    assert (config.norm.stats_grad, config.samples) == ("none", 3)
    assert UncertaintyConfig().norm.kind == "ubn"
    assert UncertaintyConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="mc_ubn", norm=BNConfig()), "nets of mc_ubn have ubn, and norm says bn"),
        (dict(method="bn", dropout=0.1), "bn does not go with dropout=0.1"),
        (dict(method="mc_dropout", dropout=0.0), "mc_dropout does not go with dropout=0.0"),
        (dict(method="ubn", samples=2), "ubn does not go with samples=2"),
        (dict(method="bn_ensemble", samples=1), "bn_ensemble does not go with samples=1"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        UncertaintyConfig(**options)


# --- Predictions ---------------------------------------------------------------------------------

SMALL = dict(seeds=(3, 7), steps=3, width=8)


def nets_of(method, *, samples=None, **options):
    given = {} if samples is None else {"samples": samples}
    config = UncertaintyConfig(method=method, **given, **(SMALL | options))
    return config, train_nets(config)


def everywhere(config, per_class=20):
    points, _ = make_spiral(per_class, 0.0)
    return points[:, None].expand(-1, len(config.seeds), -1)


@pytest.mark.parametrize(("method", "source"), [("mc_ubn", "unlabeled"), ("mc_bn", "labeled")])
def test_a_resampled_prediction_is_that_of_the_net_frozen_at_its_batch(method, source):
    config, runs = nets_of(method, samples=3)
    points, size = everywhere(config), getattr(config, f"{source}_batch")
    generators = [torch.Generator().manual_seed(20_000 + seed) for seed in config.seeds]
    for prediction in predict(config, runs, points):
        batch = random_batch(getattr(runs[0].data, source), size, generators)
        expected = frozen(runs[0].net, batch)(points).double().softmax(-1)[..., 1]
        torch.testing.assert_close(prediction, expected, atol=1e-5, rtol=0)


@pytest.fixture
def double():
    """Compute in float64, without nets of float32 that are kept."""
    _trained.cache_clear()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    _trained.cache_clear()


@pytest.mark.parametrize("method", ["mc_ubn", "bn_ensemble"])
def test_a_member_has_the_numbers_of_its_single_run(method, double):
    config, runs = nets_of(method)
    points = everywhere(config)
    together = predict(config, runs, points)
    for index, seed in enumerate(config.seeds):
        one, alone = of_one_seed(config, runs, index)
        assert one.seeds == (seed,)
        for single in (alone, train_nets(one)):
            prediction = predict(one, single, points[:, :1])
            torch.testing.assert_close(prediction, together[..., [index]], atol=1e-10, rtol=0)


def test_dropout_draws_anew_for_each_prediction_and_the_same_at_each_call():
    config, runs = nets_of("mc_dropout", samples=40, dropout=0.3, steps=1)
    points = everywhere(config)
    state = torch.get_rng_state()
    first = predict(config, runs, points)
    assert torch.equal(first, predict(config, runs, points))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first[0], first[1])
    assert first.std(0).min() > 1e-3


def test_an_ensemble_has_nets_of_the_same_data_and_other_weights(double):
    config, runs = nets_of("bn_ensemble", samples=3)
    assert len(runs) == 3
    for start, (net, data, _) in enumerate(runs):
        assert torch.equal(data.labeled, spiral_data(config).labeled)
        own = train_spiral(SpiralTraining(norm=BNConfig(), initialization=start, **SMALL)).net
        torch.testing.assert_close(dict(own.state_dict()), dict(net.state_dict()))
    predictions = predict(config, runs, everywhere(config))
    assert predictions.std(0).min() > 0
    (single,) = predict(*nets_of("bn"), everywhere(config))
    assert torch.equal(predictions[0], single)


def test_methods_share_nets_and_cannot_spoil_them():
    _trained.cache_clear()
    first = nets_of("bn")[1][0].net
    same = {key: value.clone() for key, value in first.state_dict().items()}
    for parameter in first.parameters():
        parameter.data.zero_()
    for method in ("mc_bn", "bn_ensemble"):
        again = nets_of(method)[1][0].net.state_dict()
        assert all(torch.equal(value, again[key]) for key, value in same.items())
    assert _trained.cache_info().misses == 5  # the first, and four more of the ensemble


# --- Measures ------------------------------------------------------------------------------------


def test_places_lie_where_they_should():
    at = places(SpiralTraining(seeds=(0, 1)), per_class=400)
    assert at.arms.shape == (800, 2, 2)
    assert 1800 < sum(map(len, (at.arms, at.between, at.outside))) < 2500
    arms, between, outside = (points[:, 1] for points in (at.arms, at.between, at.outside))
    assert distance_to_arms(arms).max() < 0.01
    assert distance_to_arms(outside).min() > 5 / 1.75 / 4
    clean, label = make_spiral(2000, 0.0)
    each = [torch.cdist(between, clean[label == arm]).amin(1) for arm in (0, 1)]
    assert torch.stack(each).min() > 0.5
    assert (each[0] - each[1]).abs().max() < 0.14  # midway along a radius
    assert between.norm(dim=1).max() < 4.3
    # No ray from an outside point away from the center meets an arm.
    for stretch in (1.05, 1.1, 1.2, 1.3, 1.4, 1.6):
        assert distance_to_arms(outside * stretch).min() > 0.6


def small_places():
    arms = torch.zeros(4, 2, 2)
    return Places(arms, torch.tensor([0, 0, 1, 1]), torch.zeros(2, 2, 2), torch.zeros(3, 2, 2))


def test_measures_of_known_predictions():
    """Two seeds: one wrong at one point, which is the least certain on the arms; one never."""
    arms = torch.tensor([[0.1, 0.1], [0.6, 0.2], [0.9, 0.9], [0.8, 0.8]])
    between = torch.tensor([[0.5, 0.5], [0.45, 0.15]])
    outside = torch.tensor([[0.01, 0.01], [0.99, 0.99], [0.5, 0.5]])
    mean = torch.cat([arms, between, outside]).double()
    shift = torch.zeros(9, 2).double()
    shift[4:6] = 0.01
    shift[0] = 0.005
    got = measure(torch.stack([mean - shift, mean + shift]), small_places())
    assert got["accuracy"] == [0.75, 1.0]
    assert got["brier"] == pytest.approx([(0.01 + 0.36 + 0.01 + 0.04) / 4, 0.025])
    assert got["doubt_error_auroc"] == [1.0, None]
    assert got["spread_error_auroc"] == [pytest.approx((0 + 0.5 + 0.5) / 3), None]
    assert got["doubt_between_auroc"] == pytest.approx([1.0, (4 + 2 + 0) / 8], abs=0.07)
    assert got["spread_between_auroc"] == [1.0, 1.0]
    assert got["doubt_outside_auroc"] == [pytest.approx(1 / 3)] * 2
    assert got["spread_outside_auroc"] == [3 / 8, 3 / 8]
    assert all(len(values) == 2 for values in got.values())


def test_one_prediction_has_no_spread():
    one = torch.rand(1, 9, 2, generator=torch.Generator().manual_seed(0)).double()
    got = measure(one, small_places())
    for name, values in got.items():
        assert (values == [None, None]) == name.startswith("spread"), name
