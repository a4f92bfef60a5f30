"""How time and memory are measured. As a program: one method's memory, in a fresh process."""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from training_steps import Setting, Step, training_step

from ubnlib import UnsupervisedBatchNorm2d

WARM_UP = 2  # rounds that are not timed
MEMORY_STEPS = 2  # the second step shows what the first one's freed memory is good for
LAYER_CALLS = 100  # of one layer in eval mode, timed together


def alternate(
    steps: dict[str, Step],
    repeats: int,
    device: str,
    tick: Callable = lambda: None,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, list[float]]:
    """Time each step once per repeat, in rotating order, so that noise hits all alike.

    Args:
        steps: What is timed, by name.
        repeats: Timed rounds.
        device: Waited for before and after each step.
        tick: Called after each step.
        before: Called with a step's name before each step, and not timed.

    Returns:
        Milliseconds by name of the step, one for each repeat.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    names, times = list(steps), {name: [] for name in steps}
    for repeat in range(-WARM_UP, repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            before(name)
            wait()
            start = time.perf_counter()
            steps[name]()
            wait()
            if repeat >= 0:
                times[name].append(round(1000 * (time.perf_counter() - start), 3))
            tick()
    return times


def layers_in_eval(device: str, rows: int) -> dict[str, Step]:
    """Make calls of one layer in eval mode, plain and UBN."""
    x = torch.randn(rows, 64, 16, 16, device=device)

    def calls_of(layer: nn.Module) -> Step:
        layer = layer.to(device).eval()

        @torch.no_grad()
        def call() -> None:
            for _ in range(LAYER_CALLS):
                layer(x)

        return call

    return {cls.__name__: calls_of(cls(64)) for cls in (nn.BatchNorm2d, UnsupervisedBatchNorm2d)}


def peak_on_gpu(step: Step) -> float:
    """Return by how many MB a step's tensors exceed, at most, what was allocated before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


@functools.cache
def peak_of_process(setting: Setting, k: int, method: str, one_arena: bool) -> float:
    """Return by how many MB a fresh process exceeds, at most, what it held before its steps.

    Linux only: that is whose marks are read.

    Args:
        setting: What is measured.
        k: Unlabeled rows per labeled row.
        method: One of `METHODS`.
        one_arena: Whether all threads share one arena of glibc's allocator.

    Raises:
        OSError: The process fails.
    """
    environment = {name: os.environ[name] for name in os.environ if name != "MALLOC_ARENA_MAX"}
    if one_arena:
        environment["MALLOC_ARENA_MAX"] = "1"
    command = [sys.executable, __file__, setting.model_dump_json(), str(k), method]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise OSError(f"the process that measures the memory of {method!r} failed: {reason}")
    return float(process.stdout)


def _peak_here(setting: Setting, k: int, method: str) -> float:
    torch.set_num_threads(setting.threads)
    tiny = setting.model_copy(update=dict(width=0.02, size=(32, 32), rows=2))
    training_step(tiny, 0, "BN")()  # loads the libraries' code
    step = training_step(setting, k, method)
    before = status_mb("VmRSS")
    # The peak begins anew. That of getrusage would be no less than that of the parent process.
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(MEMORY_STEPS):
        step()
    return round(status_mb("VmHWM") - before, 1)


def status_mb(field: str) -> float:
    """Return one of the sizes that Linux keeps of this process, such as "VmHWM", its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**10  # of kB


if __name__ == "__main__":
    print(_peak_here(Setting(**json.loads(sys.argv[1])), int(sys.argv[2]), sys.argv[3]))
