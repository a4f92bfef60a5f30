"""Figures are drawn from numbers that are there, and kept with their data."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from experiments.common import style
from experiments.depth import figure6_label_fraction, figures, where_it_helps
from experiments.toy import plane as spiral_plane


@pytest.fixture(autouse=True)
def _style():
    with matplotlib.rc_context():
        matplotlib.use("agg")
        style.apply_style()
        yield


def test_plane_is_a_grid_in_the_order_of_the_map():
    plane = spiral_plane.plane(5)
    assert plane.shape == (25, 2)
    assert plane[0].tolist() == [-6, -6]
    assert plane[4].tolist() == [6, -6]
    figure, axes = matplotlib.pyplot.subplots()
    image = spiral_plane.show_map(axes, plane[:, 0])
    assert image.get_array()[0].tolist() == [-6, -3, 0, 3, 6]
    matplotlib.pyplot.close(figure)


def test_gains_are_paired_by_seed():
    rng = np.random.default_rng(0)
    rows, differences = [], []
    for seed in range(5):
        base, gain = rng.uniform(0.5, 0.9), rng.normal(0.05, 0.01)
        differences.append(gain)
        rows += [("BN", 0.25, seed, base), ("UBN", 0.25, seed, base + gain)]
    rows.append(("UBN", 0.25, 9, 0.0))  # a seed without a partner does not count
    # With all labels two of the seeds, and one more, are twenty points better.
    rows += [("BN", 1.0, seed, rows[2 * seed][3] + 0.2) for seed in (1, 3)]
    rows.append(("BN", 1.0, 7, 0.99))
    table = pd.DataFrame(rows, columns=["method", "fraction", "seed", "delta1"])
    (row,) = figure6_label_fraction.gains(table).to_dict("records")
    assert row["seeds"] == 5
    assert row["gain"] == pytest.approx(np.mean(differences))
    assert row["low"] < row["gain"] < row["high"]
    assert row["closed"] == pytest.approx(np.mean(differences) / 0.2)
    base = table[(table["method"] == "BN") & (table["fraction"] < 1)]["delta1"].mean()
    assert row["relative"] == pytest.approx(np.mean(differences) / base)


def test_depth_training_has_a_panel_for_each_method_and_gap():
    curve = {"step": [10, 20], "labeled": [0.1, 0.9], "unlabeled": [0.1, 0.5], "test": [0.1, 0.4],
             "test/cnv1": [0.3, 0.2], "averages/cnv1": [0.1, 0.4]}  # fmt: skip
    curves = {"BN": curve, "UBN": curve}
    accuracy = figures.accuracy_table(curves)
    assert len(accuracy) == 2 * 3 * 2
    axes = figures.draw_accuracy(accuracy).axes
    assert [a.get_title() for a in axes] == ["BN", "UBN"]
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes[1].lines}
    assert lines == {"labeled": [0.1, 0.9], "unlabeled": [0.1, 0.5], "test": [0.1, 0.4]}
    statistics = figures.statistics_table(curves)
    by = statistics.set_index(["method", "gap", "layer", "step"])["value"]
    assert (by["UBN", "test", "cnv1", 10], by["UBN", "test", "cnv1", 20]) == (0.3, 0.2)
    axes = figures.draw_statistics(statistics, {"test": "labeled to test"}).axes
    shown = {line.get_label(): line.get_ydata().tolist() for line in axes[0].lines}
    assert shown == {"BN, step 10": [0.3], "BN, step 20": [0.2],
                     "UBN, step 10": [0.3], "UBN, step 20": [0.2]}  # fmt: skip


def test_predictions_are_beside_the_lidar():
    images = torch.randint(0, 255, (2, 3, 8, 20), dtype=torch.uint8)
    lidar = torch.zeros(2, 8, 20)
    lidar[:, 4, 3] = 10.0
    figure = figure6_label_fraction.draw_predictions(images, lidar, {"BN": lidar + 5})
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["image", "measured", "BN"]
    (points,) = figure.axes[1].collections
    assert points.get_offsets().tolist() == [[3, 4]]


def _run(arm: str, kind: str, batch: int, seed: int, delta1: float) -> dict:
    return {"experiment": "depth", "domain": "rooms", "arm": arm, "labels.kind": kind,
            "labels.k": 16, "labeled_batch": batch, "seed": seed, "delta1": delta1}  # fmt: skip


def test_the_map_pairs_runs_of_one_batch_and_one_kind_of_labels():
    rng = np.random.default_rng(0)
    truth = {("drawn", 2): 0.03, ("drawn", 16): 0.0, ("places", 2): 0.06}
    rows = []
    for (kind, batch), gain in truth.items():
        for seed in range(3):
            base = rng.uniform(0.3, 0.5)
            rows.append(_run("BN", kind, batch, seed, base))
            rows.append(_run("UBN", kind, batch, seed, base + gain + 0.01 * (seed - 1)))
    rows.append(_run("UBN", "drawn", 2, 7, 0.0))  # without a partner
    rows.append(_run("BN", "drawn", 2, 0, 0.9) | {"domain": "drives"})
    table = where_it_helps.gains_of_map(pd.DataFrame(rows), "rooms", 16)
    gains = {(row.labels, row.labeled_batch): row for row in table.itertuples()}
    kinds = {"drawn": where_it_helps.SPREAD, "places": where_it_helps.FEW_PLACES}
    assert len(gains) == len(truth)
    for (kind, batch), gain in truth.items():
        row = gains[kinds[kind], batch]
        assert (row.seeds, row.gain) == (3, pytest.approx(gain))
        # Student's t for three values: 4.303 standard errors.
        assert row.high - row.gain == pytest.approx(4.3027 * 0.01 / np.sqrt(3), rel=1e-4)
    gaps = pd.DataFrame([[where_it_helps.SPREAD, "cnv1", 0.1]], columns=["labels", "layer", "gap"])
    caption = where_it_helps.draw(table, gaps, "rooms").get_label()
    assert "labels from few places, batch 2: +0.060 [+0.035, +0.085]" in caption


def test_several_runs_of_one_seed_are_not_averaged():
    rows = [_run(arm, "drawn", 2, seed, 0.4) for arm in ("BN", "UBN") for seed in range(3)]
    again = pd.DataFrame([*rows, _run("UBN", "drawn", 2, 1, 0.9)])  # such as one in bfloat16
    with pytest.raises(ValueError, match=r"several runs of one seed .*seed 1, arm UBN"):
        where_it_helps.gains_of_map(again, "rooms", 16)
    shares = again.rename(columns={"arm": "method"}).assign(fraction=0.5)
    with pytest.raises(ValueError, match=r"several runs of one seed .*seed 1, method UBN"):
        figure6_label_fraction.gains(shares)


def test_runs_at_two_learning_rates_are_not_taken_together():
    rows = [_run("BN", "drawn", 16, seed, 0.4) for seed in range(4)]
    table = pd.DataFrame(rows).assign(learning_rate=[1e-3, 1e-3, 1e-3, 1e-2])
    for taken in (
        lambda: where_it_helps.gains_of_map(table, "rooms", 16),
        lambda: figure6_label_fraction.of_study(table, "rooms"),
    ):
        with pytest.raises(ValueError, match=r"learning rates 0.001 and 0.01 \(.*arm BN"):
            taken()
    kept = figure6_label_fraction.of_study(table[table["seed"] < 3], "rooms")
    assert kept["fraction"].tolist() == [1 / 16] * 3


def test_a_folder_without_records_has_an_empty_map():
    table = where_it_helps.gains_of_map(pd.DataFrame(), "rooms", 16)
    assert len(table) == 0 and "gain" in table
