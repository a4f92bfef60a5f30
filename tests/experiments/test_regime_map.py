"""The regime map: which runs it needs, and what it says of them."""

import numpy as np
import pytest

from experiments.common.records import Result, recorded
from experiments.toy.regime_map import compare, outcome, pairs
from experiments.toy.train import SpiralConfig


def test_cells_are_all_combinations():
    cells = pairs(
        SpiralConfig(steps=7), ["corrected", "all"], noise=[0.0, 0.5], batch=[(8, 16), (50, 400)]
    )
    assert len(cells) == 8
    assert {cell.setting["reading"] for cell in cells} == {"corrected", "all"}
    last = cells[-1]
    assert last.setting == {"reading": "all", "noise": 0.5, "batch": (50, 400)}
    assert (last.ubn.norm.stats_grad, last.ubn.noise) == ("all", 0.5)
    assert (last.ubn.labeled_batch, last.ubn.unlabeled_batch, last.ubn.steps) == (50, 400, 7)


def test_batch_normalization_is_run_once_for_what_it_does_not_see():
    cells = pairs(SpiralConfig(), batch=[(16, 64), (16, 400)], learning_rate=[0.01])
    assert cells[0].ubn != cells[1].ubn
    assert cells[0].bn == cells[1].bn
    assert cells[0].bn.norm.kind == "bn"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.05, "wins"),
        (-0.05, -0.001, "loses"),
        (-0.01, 0.015, "ties"),
        (-0.03, 0.01, "open"),
        (-0.01, 0.03, "open"),
        (float("nan"), float("nan"), "open"),
    ],
)
def test_outcomes(low, high, expected):
    assert outcome(low, high) == expected


def test_comparison_is_paired_by_seed():
    """UBN is ahead by exactly 0.1 in each seed, though seeds differ by more than that."""
    asked = []

    @recorded
    def run(config):
        asked.append(config)
        base = np.array([0.1 * seed for seed in config.seeds])
        return Result({"test_accuracy": (base + 0.1 * (config.norm.kind == "ubn")).tolist()}, {})

    table = compare(pairs(SpiralConfig(seeds=(0, 3, 6, 8)), noise=[0.0, 0.5]), run)
    assert len(asked) == 4
    assert list(table["noise"]) == [0.0, 0.5]
    np.testing.assert_allclose(table["difference"], 0.1)
    np.testing.assert_allclose(table["ubn"] - table["bn"], 0.1)
    assert set(table["outcome"]) == {"wins"}
    assert set(table["ahead"]) == {1.0} and set(table["seeds"]) == {4}
