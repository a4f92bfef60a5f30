"""A sweep that is killed takes its processes with it."""

import os
import signal
import subprocess
import sys
import time

import pytest

SWEEP = """
import sys
from experiments.toy.train import SpiralConfig, run_spiral
from experiments.common.parallel import obtain_all

if __name__ == "__main__":
    long = [SpiralConfig(seeds=(seed,), steps=100_000) for seed in (1, 2)]
    short = [SpiralConfig(seeds=(seed,), steps=1, width=4) for seed in (3, 4)]
    obtain_all(short + long, run_spiral, sys.argv[1], processes=2)
"""


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
