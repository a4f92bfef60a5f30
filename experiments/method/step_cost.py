"""What a training step of UBN costs, on the reader's own machine, against batch normalization.

The methods take turns step by step, so that a busy machine slows all of them alike. A step is
forward, loss and backward; the optimizer's part is the same for all.
"""

import time
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from experiments.common.records import Config, Result, recorded
from experiments.common.training import initialized_by
from ubnlib.convert import convert_ubn
from ubnlib.dispnet import DispNet
from ubnlib.forward import two_passes, ubn_forward

WARM_UP = 1  # round that is not counted
METHODS = ("bn", "ubn", "two_steps", "joint")

Step = Callable[[], None]


class StepCostConfig(Config):
    """A net, its batches and how often each method's step is timed."""

    version: ClassVar[int] = 1
    experiment: Literal["step_cost"] = "step_cost"
    net: Literal["dispnet"] = "dispnet"
    width: float = Field(0.5, gt=0)
    size: tuple[int, int] = (64, 208)  # height and width of the images
    labeled: int = Field(4, ge=1)
    unlabeled: int = Field(4, ge=1)
    repeats: int = Field(5, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1)  # of torch on the CPU
    seed: int = 0


@recorded
def run_step_cost(config: StepCostConfig) -> Result:
    """Measure the time of a step of each method.

    Metrics: medians over the repeats of the times of a step within one round, divided by batch
    normalization's, which sees the labeled rows only: `ubn_ratio` (`ubnlib.ubn_forward`),
    `two_steps_ratio` (the paper's preset, in two passes as the text has them) and `joint_ratio`
    (batch normalization on all rows, with gradient); `ubn_to_joint`; and `bn_milliseconds`.
    Curves: `milliseconds/METHOD`, one entry a round.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        seconds = take_turns(make_steps(config), config.repeats, config.device)
    finally:
        torch.set_num_threads(before)
    bn, ubn, two_steps, joint = (np.array(seconds[method]) for method in METHODS)
    metrics = {
        "ubn_ratio": np.median(ubn / bn),
        "two_steps_ratio": np.median(two_steps / bn),
        "joint_ratio": np.median(joint / bn),
        "ubn_to_joint": np.median(ubn / joint),
        "bn_milliseconds": 1000 * np.median(bn),
    }
    curves = {f"milliseconds/{name}": [1000 * t for t in seconds[name]] for name in METHODS}
    return Result.of_one_seed({name: float(value) for name, value in metrics.items()}, curves)


def make_steps(config: StepCostConfig) -> dict[str, Step]:
    """Make each method's training step, which leaves gradients behind; weights and data agree."""
    rows = [config.labeled, config.unlabeled]
    with initialized_by(config.seed):
        images = torch.randn(sum(rows), 3, *config.size).to(config.device)
    labeled, unlabeled = images.split(rows)

    def net() -> DispNet:
        with initialized_by(config.seed):
            return DispNet(width=config.width).to(config.device).train()

    bn, joint, ubn = net(), net(), convert_ubn(net())
    paper = convert_ubn(net(), preset="paper")
    return {
        "bn": _step(bn, lambda: bn(labeled)),
        "ubn": _step(ubn, lambda: ubn_forward(ubn, labeled, unlabeled, interleave=True)),
        "two_steps": _step(paper, lambda: two_passes(paper, labeled, unlabeled)),
        "joint": _step(joint, lambda: joint(images)),
    }


def _step(net: nn.Module, forward: Callable[[], tuple[Tensor, ...]]) -> Step:
    def step() -> None:
        net.zero_grad(set_to_none=True)
        torch.stack([output.square().mean() for output in forward()]).sum().backward()

    return step


def take_turns(steps: dict[str, Step], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Time each step once a round, in rotating order; return seconds by name, one a round."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    names, seconds = list(steps), {name: [] for name in steps}
    for turn in range(-WARM_UP, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            wait()
            start = time.perf_counter()
            steps[name]()
            wait()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds
