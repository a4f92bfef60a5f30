"""Time a short piece of training, in so many processes at a time as a machine has cores.

    python workflow/calibrate.py 2

prints the seconds that each of two processes needs for it, side by side: the median.
"""

import subprocess
import sys
import time
from statistics import median

REPEATS = 20  # some seconds, since machines are fast now and slow then


def seconds_at_once(processes: int) -> float:
    """Return the seconds of the calibration in so many processes at once, their median."""
    command = [sys.executable, __file__]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    times = [float(process.communicate()[0]) for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("The calibration failed; see its error above.")
    return median(times)


def seconds_here(repeats: int = REPEATS) -> float:
    """Return the seconds of one calibration in this process, the median of a few."""
    import torch

    from experiments.common.training import UBNConfig
    from experiments.toy.train import SpiralConfig, train_spiral

    torch.set_num_threads(1)
    config = SpiralConfig(norm=UBNConfig(), seeds=tuple(range(8)), steps=20)
    train_spiral(config)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        train_spiral(config)
        images = torch.ones(8, 16, 24, 80)
        weight = torch.ones(16, 16, 3, 3, requires_grad=True)
        for _ in range(10):
            torch.nn.functional.conv2d(images, weight).sum().backward()
        times.append(time.perf_counter() - start)
    return median(times)


if __name__ == "__main__":
    print(seconds_at_once(int(sys.argv[1])) if len(sys.argv) > 1 else seconds_here())
