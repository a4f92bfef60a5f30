"""Many runs: each once, in order, also from several processes."""

import pytest

from experiments.common.parallel import obtain_all
from experiments.common.records import Result, read_record, record_path, recorded
from experiments.toy.train import SpiralConfig, run_spiral


@recorded
def run_or_fail(config):
    if config.seeds == (13,):
        raise ArithmeticError("seed 13")
    return Result({"score": [1.0]}, {})


def test_equal_configurations_run_once_and_order_is_kept(tmp_path):
    configs = [SpiralConfig(seeds=(seed,)) for seed in (2, 1, 2)]
    records = obtain_all(configs, run_or_fail, tmp_path)
    assert [record.seeds for record in records] == [[2], [1], [2]]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_stopped_sweep_goes_on_where_it_was(tmp_path):
    configs = [SpiralConfig(seeds=(seed,)) for seed in (1, 13, 2)]
    with pytest.raises(ArithmeticError, match="seed 13"):
        obtain_all(configs, run_or_fail, tmp_path)
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    obtain_all([configs[0], configs[2]], run_or_fail, tmp_path)
    assert kept.stat().st_mtime_ns == written
    assert len(list(tmp_path.iterdir())) == 2


def test_processes_give_the_same_records_and_their_errors_arrive(tmp_path):
    configs = [SpiralConfig(seeds=(seed,), steps=20, width=8) for seed in (5, 6, 13)]
    here = obtain_all(configs[:2], run_spiral_or_fail, tmp_path / "here")
    with pytest.raises(ArithmeticError, match="seed 13"):
        obtain_all(configs, run_spiral_or_fail, tmp_path / "there", processes=2, progress="runs")
    for one in here:  # those under way were written
        other = read_record(record_path(SpiralConfig(**one.config), tmp_path / "there"))
        accuracy = pytest.approx(one.metrics["test_accuracy"], abs=0.01)
        assert other.metrics["test_accuracy"] == accuracy and other.made.threads == 1


def run_spiral_or_fail(config):
    if config.seeds == (13,):
        raise ArithmeticError("seed 13")
    return run_spiral(config)
