"""What depth runs will cost, from a few steps timed here or from an assumption (`flops`).

The hours are those of the optimizer steps. Evaluations come on top: a forward pass of each frame.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np

from experiments.depth.config import DepthConfig
from experiments.depth.data import DepthData
from experiments.depth.flops import has_unlabeled
from experiments.depth.ranks import Ranks, alone
from experiments.depth.steps import make_engine, make_loader, make_net

WARM_UP = 2  # steps before the timed ones, and as many more as workers read ahead
READ_AHEAD = 2  # batches of each worker, torch's default


def estimate(config: DepthConfig, images: int, seconds: float, runs: int = 1) -> float:
    """Return the hours that runs of a configuration take, one after the other.

    Args:
        config: The run.
        images: Number of training images, labeled or not.
        seconds: Of one optimizer step, from `measure_step` or `flops.assumed_step`.
        runs: How many.
    """
    return runs * config.total_steps(images) * seconds / 3600


def announce(
    configs: Iterable[DepthConfig],
    images: int,
    seconds: Callable[[DepthConfig], float],
    where: str,
    *,
    gpu: bool = False,
) -> str:
    """Say what some runs cost together, one after the other, before they start.

    Args:
        configs: The runs that are to be made.
        images: Number of training images, labeled or not.
        seconds: Seconds of one optimizer step, asked once for each kind of step.
        where: The device, and what is assumed about it.
        gpu: Whether to call the hours GPU-hours.

    Example:
        >>> from experiments.depth.data import EveryLabels
        >>> config = DepthConfig(data="none", labels=EveryLabels(k=4), steps=52_880)
        >>> announce([config] * 24, 42_304, lambda config: 0.05, "NVIDIA H200", gpu=True)
        '24 runs x 52,880 steps: about 18 GPU-hours on NVIDIA H200'
    """
    measured: dict[str, float] = {}
    hours, steps = 0.0, []
    for config in configs:
        kind = _kind_of_step(config)
        if kind not in measured:
            measured[kind] = seconds(config)
        hours += estimate(config, images, measured[kind])
        steps.append(config.total_steps(images))
    if not steps:
        return "0 runs: nothing is left to do"
    count = f"x {steps[0]:,} steps" if len(set(steps)) == 1 else f"of {sum(steps):,} steps in all"
    return f"{len(steps)} runs {count}: about {duration(hours, 'GPU-' * gpu)} on {where}"


def duration(hours: float, of: str = "") -> str:
    """Write a duration roughly, in hours or minutes, of something such as "GPU-".

    Example:
        >>> duration(1234.5), duration(2.345), duration(0.2), duration(0.001)
        ('1,234 hours', '2.3 hours', '12 minutes', '1 minute')
    """
    if hours >= 1:
        return f"{hours:,.0f} {of}hours" if hours >= 10 else f"{hours:.1f} {of}hours"
    minutes = max(1, round(60 * hours))
    return f"{minutes} {of}minute{'s' if minutes > 1 else ''}"


def measure_step(
    config: DepthConfig,
    data: DepthData,
    steps: int = 3,
    *,
    workers: int = 0,
    ranks: Ranks | None = None,
) -> float:
    """Return the seconds of one optimizer step of a run, its loader included: the median of a few.

    Args:
        config: The run; none of its results is touched.
        data: Its data.
        steps: How many are timed.
        workers: Processes that read batches ahead.
        ranks: The processes that train together; None for this one.
    """
    ranks = ranks or alone()
    before = WARM_UP + READ_AHEAD * workers
    loader = make_loader(config, data, ranks, steps=before + steps, workers=workers)
    moments: list[float] = []

    def note(step: int) -> dict[str, float]:
        moments.append(time.perf_counter())
        return {}

    # A GPU is not waited for: each step reads its loss, and so waits for the step before.
    make_engine(config, make_net(config, ranks), loader, ranks).train(observe=note)
    return float(np.median(np.diff(moments[before - 1 :])))


def _kind_of_step(config: DepthConfig) -> str:
    """Return what makes a step's cost: all of a configuration that is not said otherwise here."""
    free = {"labels", "learning_rate", "weight_decay", "steps", "epochs", "evaluations", "seed"}
    return f"{has_unlabeled(config)} {config.model_dump_json(exclude=free)}"
