"""The step in the loops of DDP, Lightning and accelerate, in one process and in two."""

import re

import pytest

from run_example import lines_of, run

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
COMMANDS = {
    "lightning": lambda processes: ["examples/train_lightning.py", "--devices", str(processes)],
    "accelerate": lambda processes: [*TORCHRUN, str(processes), "examples/train_accelerate.py"],
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("package", COMMANDS)
def test_the_step_learns_and_its_statistics_are_of_all_processes(package, processes):
    learned, shared = lines_of(run(*COMMANDS[package](processes)))[-2:]
    found = re.fullmatch(r"test accuracy (.*) after 100 steps of (.) process\(es\)", learned)
    assert float(found[1]) > 0.8 and int(found[2]) == processes
    assert shared.startswith("the last statistics agree")


def test_ddp_script_shares_statistics_on_two_real_ranks():
    lines = lines_of(run(*TORCHRUN, "2", "examples/train_ddp.py"))
    first, last = (float(line.split()[-1]) for line in lines[:2])
    assert last < first / 3
    assert "agree on 2 ranks" in lines[2]
