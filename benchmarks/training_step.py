"""Measure what a training step costs: BN, UBN in both of its ways, and a joint pass, in turns.

python benchmarks/training_step.py dispnet --k 0 1 3 --out dispnet.json
python benchmarks/training_step.py engines --rows 16 --width 0.5 --size 48 160    # of the study
python benchmarks/training_step.py spiral    # 30 nets side by side, and one of them alone

A step is forward, loss and backward for the labeled rows, with k unlabeled rows per labeled row.
BN sees the labeled rows only; "two steps" is `ubn_forward`, the paper's procedure as it is written,
"interleaved" is `ubn_forward(..., interleave=True)`, and "joint pass" is BN on all rows, with
gradient. In theory, a forward pass is a third of a step.
"""

import json
import math
import multiprocessing
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import quantile_test
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Compare, Measurement, Timer

from experiments.common.arguments import whole_number
from experiments.common.files import whole
from experiments.common.provenance import provenance
from experiments.common.training import BNConfig, UBNConfig
from experiments.toy.train import SpiralConfig, train_spiral
from ubnlib import DispNet, convert_ubn, ubn_forward

METHODS = ("BN", "two steps", "interleaved", "joint pass")
SPIRAL_METHODS = {
    "BN": BNConfig(),
    "UBN, corrected": UBNConfig(),
    "UBN, none": UBNConfig(stats_grad="none"),
    "UBN, all": UBNConfig(stats_grad="all"),
}
Step = Callable[[], Any]
Times = dict[tuple[str, str], list[Measurement]]  # by row and column of the table, a turn each


def in_turns(label: str, steps: dict[tuple[str, str], Step], repeats: int, threads: int) -> Times:
    """Time each step once per turn, in rotating order, so that noise hits all alike.

    Keys of the steps are row and column of the table; torch's Timer warms up and synchronizes.
    """
    timers = {
        (row, column): Timer(
            "step()",
            globals={"step": steps[row, column]},
            label=label,
            sub_label=row,
            description=column,
            num_threads=threads,
        )
        for row, column in steps
    }
    keys, times = list(timers), {key: [] for key in timers}
    for turn in range(repeats):
        first = turn % len(keys)
        for key in keys[first:] + keys[:first]:
            times[key].append(timers[key].timeit(1))
    return times


def show(times: Times) -> None:
    """Print the median times as a table."""
    Compare([one for measurements in times.values() for one in measurements]).print()


def milliseconds(measurements: list[Measurement]) -> list[float]:
    """Return the time of each turn."""
    return [round(1000 * one.median, 4) for one in measurements]


def ratio(times: list[Measurement], reference: list[Measurement], factor: float = 1) -> str:
    """Write the median of the ratios within each turn, and its 95 % interval where there is one."""
    ratios = factor * np.divide(milliseconds(times), milliseconds(reference))
    interval = quantile_test(ratios, p=0.5).confidence_interval(0.95)  # by order statistics
    bounds = "" if math.isnan(interval.low) else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{np.median(ratios):.2f}{bounds}"


def write_json(setting: Namespace, **content: Any) -> None:
    """Write what was measured, how and where, into the setting's file `out`."""
    content |= dict(setting=vars(setting), provenance=provenance().model_dump(mode="json"))
    with whole(setting.out) as partial:
        partial.write_text(json.dumps(content, indent=1, default=str) + "\n")


class ResidualBlock(nn.Module):
    """The basic block of ResNets: two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def small_resnet(width: float) -> nn.Sequential:
    """Make a stem, three stages of two blocks, and a classifier of ten classes."""
    channels = [max(1, round(width * wanted)) for wanted in (32, 64, 128)]
    stem = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
    layers = [stem, nn.BatchNorm2d(channels[0]), nn.ReLU()]
    inputs = channels[0]
    for outputs in channels:
        stride = 1 if outputs is channels[0] else 2
        layers += [ResidualBlock(inputs, outputs, stride), ResidualBlock(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def training_step(setting: Namespace, k: int, method: str) -> Step:
    """Make a training step that returns its loss; equal settings give equal weights and images."""
    torch.manual_seed(0)
    rows, depth = setting.rows, setting.model == "dispnet"
    layout = getattr(torch, f"{setting.layout}_format", torch.channels_last)
    model = DispNet(width=setting.width) if depth else small_resnet(setting.width)
    model = model.to(setting.device, memory_format=layout).train()
    images = torch.randn((1 + k) * rows, 3, *setting.size).to(setting.device, memory_format=layout)
    labeled, unlabeled = images.split([rows, k * rows])
    if method in ("two steps", "interleaved"):
        convert_ubn(model)
    forward = {
        "BN": lambda: model(labeled),
        "two steps": lambda: ubn_forward(model, labeled, unlabeled),
        "interleaved": lambda: ubn_forward(model, labeled, unlabeled, interleave=True),
        "joint pass": lambda: model(torch.cat([labeled, unlabeled])),
    }[method]
    classes = torch.arange(rows, device=setting.device) % 10

    def step() -> float:
        with torch.autocast(setting.device, torch.bfloat16, setting.precision == "bf16"):
            outputs = forward()
            if depth:
                loss = torch.stack([scale[:rows].log().mean() for scale in outputs]).mean()
            else:
                loss = F.cross_entropy(outputs[:rows], classes)
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def peak_memory(setting: Namespace, k: int, method: str) -> float:
    """Return by how many MB steps in a fresh process exceed, at most, what it held before."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_peak_here, setting, k, method).result()


def _peak_here(setting: Namespace, k: int, method: str) -> float:
    torch.set_num_threads(setting.threads)
    step, cuda = training_step(setting, k, method), setting.device == "cuda"
    before = torch.cuda.memory_allocated() / 2**20 if cuda else _status_mb("VmRSS")
    for _ in range(2):  # the second shows what the first one's freed memory is good for
        step()
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else _status_mb("VmHWM")
    return round(peak - before, 1)


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()  # Linux only
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**10  # of kB


def measure_network(setting: Namespace) -> None:
    """Measure all methods at each k, print the tables and ratios."""
    dispnet = setting.model == "dispnet"
    setting.rows = setting.rows or (4 if dispnet else 32)
    setting.size = setting.size or ((128, 416) if dispnet else (32, 32))
    times, losses, memory = {}, {}, {}
    for k in setting.k:
        steps = {(name, f"k = {k}"): training_step(setting, k, name) for name in METHODS}
        losses |= {key: float(step()) for key, step in steps.items()}
        times |= in_turns(setting.model, steps, setting.repeats, setting.threads)
        if setting.memory:
            memory |= {key: peak_memory(setting, k, key[0]) for key in steps}
    show(times)
    for method, k in times:
        line = f"{k}, {method}: time / BN {ratio(times[method, k], times['BN', k])}, "
        line += f"time / joint pass {ratio(times[method, k], times['joint pass', k])}"
        print(line + (f", peak {memory[method, k]} MB" if memory else ""))
    if setting.out:
        taken = [
            dict(method=key[0], k=key[1], loss=losses[key], memory_mb=memory.get(key))
            | dict(milliseconds=milliseconds(times[key]))
            for key in times
        ]
        write_json(setting, steps=taken)


def measure_engines(setting: Namespace) -> None:
    """Measure DispNet in float32 and in bfloat16, by layout; print what is not convolution."""
    setting.rows, setting.size = setting.rows or 4, setting.size or (128, 416)
    engines = [("fp32", "contiguous"), ("fp32", "channels_last"), ("bf16", "channels_last")]
    steps, outside = {}, {}
    for precision, layout in engines:
        here = Namespace(**vars(setting) | dict(precision=precision, layout=layout))
        here.model = "dispnet"
        for method in METHODS[:3]:
            key = method, f"{precision}, {layout}"
            steps[key] = training_step(here, 1, method)
            outside[key] = outside_convolutions(steps[key], setting.device)
    times = in_turns("dispnet, one unlabeled row a labeled one", steps, setting.repeats,
                     setting.threads)  # fmt: skip
    show(times)
    old = ", ".join(engines[0])
    for method, engine in times:
        line = (
            f"{method}, {engine}: time / {old} {ratio(times[method, engine], times[method, old])}"
        )
        print(f"{line}, outside convolutions {outside[method, engine]:.0%}")
    if setting.out:
        taken = [
            dict(method=key[0], engine=key[1], outside_convolutions=outside[key])
            | dict(milliseconds=milliseconds(times[key]))
            for key in times
        ]
        write_json(setting, steps=taken)


def outside_convolutions(step: Step, device: str) -> float:
    """Return the share of a step's time that is spent outside convolutions and their gradients."""
    step()
    activities = [ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU]
    with profile(activities=activities) as profiled:
        step()
    spent = {"conv": 0.0, "": 0.0}
    for event in profiled.key_averages():
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        kernels = ("conv", "gemm", "xmma", "cudnn")  # of cuDNN, which name no convolution
        spent["conv" if any(name in event.key.lower() for name in kernels) else ""] += own
    return round(spent[""] / sum(spent.values()), 3)


def measure_spiral(setting: Namespace) -> None:
    """Measure `train_spiral` with all nets side by side, and with one; print what that saves."""
    together, alone, steps = f"{setting.nets} nets", "one net", {}
    for method, norm in SPIRAL_METHODS.items():
        for name, nets in {together: setting.nets, alone: 1}.items():
            config = SpiralConfig(norm=norm, seeds=range(nets), steps=setting.steps)
            steps[method, name] = lambda config=config: train_spiral(config)
    label = f"spiral, {setting.steps} steps"
    times = in_turns(label, steps, setting.repeats, setting.threads)
    show(times)
    for method in SPIRAL_METHODS:
        saved = ratio(times[method, alone], times[method, together], setting.nets)
        print(f"{method}: side by side {saved} times as fast as one by one")
    if setting.out:
        taken = {f"{method}, {name}": milliseconds(times[method, name]) for method, name in times}
        write_json(setting, milliseconds=taken)


def main() -> int:
    """Parse the arguments and measure."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add, here = parser.add_argument, "cuda" if torch.cuda.is_available() else "cpu"
    add("model", choices=("dispnet", "resnet", "engines", "spiral"))
    add("--device", choices=("cpu", "cuda"), default=here, help=f"of the two networks ({here})")
    from_0 = partial(whole_number, least=0)
    add("--k", nargs="+", type=from_0, default=[0, 1, 3], help="unlabeled per labeled row (0 1 3)")
    add("--rows", type=whole_number, help="labeled rows (4 for dispnet, 32 for resnet)")
    add("--width", type=float, default=1.0, help="multiplier of the hidden channels (1)")
    add("--size", nargs=2, type=whole_number, metavar=("H", "W"), help="image (128 416; 32 32)")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="(fp32)")
    add("--layout", choices=("contiguous", "channels_last"), default="contiguous")
    add("--memory", action="store_true", help="measure it too, each method in a fresh process")
    add("--nets", type=whole_number, default=30, help="of the spiral, side by side (30)")
    add("--steps", type=whole_number, default=100, help="of the spiral's training a turn (100)")
    add("--repeats", type=whole_number, default=9, help="timed turns (9)")
    add("--threads", type=whole_number, default=1, help="of torch on the CPU (1)")
    add("--out", type=Path, metavar="FILE", help="JSON file for every single time")
    setting = parser.parse_args()
    measure = {"spiral": measure_spiral, "engines": measure_engines}
    measure.get(setting.model, measure_network)(setting)
    return 0


if __name__ == "__main__":
    sys.exit(main())
