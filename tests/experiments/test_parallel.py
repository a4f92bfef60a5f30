"""Many runs: each once, in order, also from several processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.common.parallel import obtain_all
from experiments.common.records import Result, recorded
from experiments.toy.train import SpiralConfig, run_spiral


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
        assert other.made.threads == 1


@pytest.mark.slow
def test_an_error_in_a_process_arrives(tmp_path):
    (record,) = obtain_all([SpiralConfig(seeds=(1,))], run_or_fail, tmp_path, processes=2)
    assert record.metrics["process"] != [os.getpid()]
    with pytest.raises(ArithmeticError, match="seed 13"):
        obtain_all([SpiralConfig(seeds=(13,))], run_or_fail, tmp_path, processes=2)


SWEEP = """
import sys
from experiments.toy.train import SpiralConfig, run_spiral
from experiments.common.parallel import obtain_all

if __name__ == "__main__":
    long = [SpiralConfig(seeds=(seed,), steps=100_000) for seed in (1, 2)]
    short = [SpiralConfig(seeds=(seed,), steps=1, width=4) for seed in (3, 4)]
    obtain_all(short + long, run_spiral, sys.argv[1], processes=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_no_process_outlives_a_killed_sweep(tmp_path):
    script = tmp_path / "sweep.py"
    script.write_text(SWEEP)
    sweep = subprocess.Popen([sys.executable, str(script), str(tmp_path / "records")])
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("records/*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        children = _children(sweep.pid)
        assert children, "the sweep has no processes of its own"
    finally:
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
    deadline = time.monotonic() + 30
    while any(map(_runs, children)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in children if _runs(pid)]
    assert len(list(tmp_path.glob("records/*.json"))) == 2


def _children(parent: int) -> list[int]:
    tasks = f"/proc/{parent}/task"
    return [
        int(pid)
        for task in os.listdir(tasks)
        for pid in open(f"{tasks}/{task}/children").read().split()
    ]


def _runs(pid: int) -> bool:
    try:
        state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
