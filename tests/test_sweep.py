"""Many runs: each once, in order, also from several processes."""

import os

import pytest

from ubnlib.records import Result, recorded
from ubnlib.spiral.experiment import SpiralConfig, run_spiral
from ubnlib.sweep import obtain_all


@recorded
def run_or_fail(config):
    if config.seeds == (13,):
        raise ArithmeticError("seed 13")
    return Result({"process": [float(os.getpid())]}, {})


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


@pytest.mark.slow
def test_processes_give_the_same_records(tmp_path):
    configs = [SpiralConfig(seeds=(seed,), steps=20, width=8) for seed in (5, 6, 7)]
    here = obtain_all(configs, run_spiral, tmp_path / "here")
    there = obtain_all(configs, run_spiral, tmp_path / "there", processes=2, progress="runs")
    for one, other in zip(here, there, strict=True):
        assert one.key == other.key
        assert other.metrics["test_accuracy"] == pytest.approx(
            one.metrics["test_accuracy"], abs=0.01
        )
        assert other.provenance.threads == 1


@pytest.mark.slow
def test_an_error_in_a_process_arrives(tmp_path):
    configs = [SpiralConfig(seeds=(seed,)) for seed in (1, 13)]
    with pytest.raises(ArithmeticError, match="seed 13"):
        obtain_all(configs, run_or_fail, tmp_path, processes=2)
    process = obtain_all(configs[:1], run_or_fail, tmp_path)[0].metrics["process"]
    assert process != [os.getpid()]
