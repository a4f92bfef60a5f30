"""The reading aid: snapshots of a run, and their picture."""

from io import BytesIO

import hypothesis
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import strategies

from experiments.common.style import apply_style
from experiments.common.training import BNConfig, UBNConfig, evaluating, initialized_by
from experiments.toy.ensemble import Ensemble
from experiments.toy.figure2_boundaries import accuracy
from experiments.toy.plane import plane
from experiments.toy.playback import Playback, draw, play, snapshot_steps, statistics_offsets
from experiments.toy.spiral import SpiralNet
from experiments.toy.train import SpiralTraining, dense_spiral, train_spiral

SMALL = dict(width=8, steps=20, labeled_per_class=6, unlabeled_per_class=20, unlabeled_batch=12)


def playback(norm, **options) -> Playback:
    config = SpiralTraining(norm=norm, **{**SMALL, **options})
    return play(config, plane(21), channel=3, count=5, batches=7)


@pytest.fixture(scope="module")
def bn():
    return playback(BNConfig())


@pytest.fixture(scope="module")
def ubn():
    return playback(UBNConfig())


@hypothesis.settings(deadline=None)
@hypothesis.given(strategies.integers(1, 3000), strategies.integers(2, 30))
def test_steps_go_from_start_to_end_and_are_denser_early(total, count):
    steps = snapshot_steps(total, count)
    assert steps[0] == 0 and steps[-1] == total
    gaps = np.diff(steps)
    assert len(steps) <= count and (gaps > 0).all()
    assert (np.diff(gaps) >= -1).all()  # rounding may shorten one
    if total >= 100 and count >= 3:
        assert gaps[0] < gaps[-1]


@pytest.mark.parametrize(("norm", "dropout"), [(BNConfig(), 0.3), (UBNConfig(), 0.0)])
def test_the_last_snapshot_is_of_the_net_that_is_trained_without_any(norm, dropout):
    config = SpiralTraining(norm=norm, dropout=dropout, seeds=(4,), **SMALL)
    points = plane(9)
    run, played = train_spiral(config), play(config, points, count=4)
    last = played.snapshots[-1]
    assert last.test_accuracy == accuracy(run.net, *dense_spiral(config)).item()
    assert last.labeled_accuracy == accuracy(run.net, run.data.labeled, run.data.labels).item()
    with evaluating(run.net):
        expected = run.net(points[:, None]).softmax(-1)[:, 0, 1]
    torch.testing.assert_close(last.probability, expected, rtol=0, atol=0)
    assert torch.equal(played.data.unlabeled, run.data.unlabeled[:, 0])


def test_features_are_normalized_by_all_points_that_the_method_may_use(bn, ubn):
    """Before training the layers neither scale nor shift, so that shows in the moments."""
    first = bn.snapshots[0].labeled
    assert first.shape == (3, 12) and bn.snapshots[0].unlabeled.shape == (3, 40)
    torch.testing.assert_close(first.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(first.std(1, correction=0), torch.ones(3), rtol=0, atol=1e-2)
    both = torch.cat([ubn.snapshots[0].labeled, ubn.snapshots[0].unlabeled], 1)
    torch.testing.assert_close(both.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(both.std(1, correction=0), torch.ones(3), rtol=0, atol=1e-2)
    assert ubn.snapshots[0].labeled.mean(1).abs().max() > 1e-2


@pytest.fixture
def net():
    with initialized_by(5):
        template = SpiralNet(6)
    return Ensemble([template]), template


@torch.no_grad()
def by_hand(template, batch, channel: int):
    """One channel's mean and deviation in front of normalizations 1 to 3, in float64."""
    hidden, found = batch.double(), []
    linears = [layer for layer in template if isinstance(layer, torch.nn.Linear)]
    for linear in linears[:3]:
        before = hidden @ linear.weight.double().T + linear.bias.double()
        found.append((before[:, channel].mean(), before[:, channel].std(correction=0)))
        variance = before.var(0, correction=0)
        hidden = ((before - before.mean(0)) / (variance + 1e-5).sqrt()).relu()
    return torch.tensor(found, dtype=torch.float64)


def test_offsets_are_those_of_each_batch_by_itself(net):
    ensemble, template = net
    generator = torch.Generator().manual_seed(1)
    population = torch.randn(50, 1, 2, generator=generator)
    batches = 1.5 * torch.randn(9, 4, 2, generator=generator) + 0.3
    offsets = statistics_offsets(ensemble, template, population, batches, channel=2)
    true = by_hand(template, population[:, 0], 2)
    for i in range(4):
        one = by_hand(template, batches[:, i], 2)
        mean, deviation = (one[:, 0] - true[:, 0]) / true[:, 1], one[:, 1] / true[:, 1]
        torch.testing.assert_close(offsets.mean[:, i].double(), mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(offsets.deviation[:, i].double(), deviation, rtol=1e-4, atol=0)


def test_there_is_no_number_where_the_population_is_one_point(net):
    same = torch.ones(8, 1, 2)
    offsets = statistics_offsets(*net, same, torch.randn(8, 3, 2), channel=0)
    assert offsets.mean[0].isnan().all() and offsets.deviation[0].isnan().all()


def test_what_cannot_be_played_is_refused():
    with pytest.raises(ValueError, match=r"one seed, and got \(0, 1\)"):
        playback(BNConfig(), seeds=(0, 1))
    with pytest.raises(ValueError, match="count is 1: it must be at least 2"):
        snapshot_steps(10, 1)


def test_a_picture_stays_as_it_was_placed(ubn):
    with plt.rc_context():
        apply_style()  # whose layout a figure without one of its own gets at its first savefig
        figure = draw(ubn)
        places = [axes.get_position().bounds for axes in figure.axes]
        pictures = [BytesIO(), BytesIO()]
        for picture in pictures:
            figure.savefig(picture, dpi=40)
    assert pictures[0].getvalue() == pictures[1].getvalue()
    tight = figure.get_tightbbox()
    assert (tight.min >= 0).all() and (tight.max <= figure.get_size_inches()).all()  # nothing cut
    map_axes = figure.axes[0].get_position().bounds
    assert map_axes == pytest.approx(places[0], abs=0.1) and map_axes[2] > 0.35
    plt.close(figure)


def test_the_picture_is_of_the_snapshot(ubn):
    for index in (0, -1):
        figure, snapshot = draw(ubn, index), ubn.snapshots[index]
        map_axes, *_ = figure.axes
        assert map_axes.get_title().startswith(f"step {snapshot.step}: ")
        np.testing.assert_array_equal(
            map_axes.images[0].get_array().ravel(), snapshot.probability.numpy()
        )
        accuracy_axes = next(axes for axes in figure.axes if axes.get_xlabel() == "step")
        test = accuracy_axes.lines[1]
        so_far = [s for s in ubn.snapshots if s.step <= snapshot.step]
        assert test.get_xdata().tolist() == [s.step for s in so_far]
        assert test.get_ydata().tolist() == [s.test_accuracy for s in so_far]
        scatter = [axes for axes in figure.axes if axes.collections and not axes.images]
        for layer, axes in enumerate(scatter):
            shown = axes.collections[0].get_offsets()
            offsets = snapshot.labeled_batches
            np.testing.assert_array_equal(shown[:, 0], offsets.mean[layer])
            np.testing.assert_array_equal(shown[:, 1], offsets.deviation[layer])
        assert len(scatter) == 3
        plt.close(figure)
