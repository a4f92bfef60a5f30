"""What a plan costs: time, memory, disk and graphics processors, by the work that is left in it."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from plan import DEPTH, Plan, Planned
from registry import EXPERIMENTS
from work import Work, seconds_of, unit_costs, work_of, work_of_frames


def costs_of(plan: Plan) -> dict[str, dict[str, float]]:
    """Return what each run of a plan costs, by its file.

    Returns:
        `seconds` on one core of the units' machine, `memory_mb`, `minutes` (a limit for clusters:
        ten times the estimate, and half an hour at least).
    """
    known = unit_costs()
    data = shapes_of(plan)
    costs = {}
    for run, *_ in plan.runs:
        seconds = seconds_of(work_of(run.config, data))
        memory = known["memory_mb"].get(run.config.experiment, 2000)
        minutes = 30 + math.ceil(10 * seconds / 60)
        costs[run.file] = {"seconds": round(seconds, 2), "memory_mb": memory, "minutes": minutes}
    return costs


def shapes_of(plan: Plan) -> dict[str, Any] | None:
    """Return the numbers of images of the depth runs and their size, expected or known."""
    parameters = plan.parameters.get(DEPTH)
    if parameters is None:
        return None
    size = parameters["frames"]["size"]
    if plan.data:
        return {"train": plan.data["train"], "test": plan.data["test"], "size": size}
    if parameters["kitti_root"]:
        return {"train": 42_304, "test": 2_480, "size": size}
    synthetic, frames = parameters["synthetic"], parameters["frames"]
    images = synthetic["drives"] * synthetic["frames"] * len(frames["cameras"])
    test = images // 4 // frames["test_every"]
    return {"train": images * 3 // 4, "test": test, "size": size}


class Estimate(NamedTuple):
    """What is left of a plan: seconds on one core of this machine where nothing else is said.

    Attributes:
        runs: By notebook.
        notebooks: By notebook.
        frames: Rendering and packing, with all cores; None where there is nothing to do.
        seconds: Of everything, with all cores.
        slowness: How much slower a core is here, with all of them busy, than the units' was.
        reference: The units' processor.
        memory_mb: Of the largest runs at a time.
        disk_mb: Of what is yet to be written.
        gpu: One sentence.
    """

    runs: dict[str, float]
    notebooks: dict[str, float]
    frames: float | None
    seconds: float
    slowness: float
    reference: str
    memory_mb: float
    disk_mb: float
    gpu: str


def estimate(plan: Plan, calibration: float, cores: int, gpus: int = 0) -> Estimate:
    """Say what a plan costs here.

    Args:
        plan: The plan.
        calibration: Seconds of the calibration here, in as many processes as there are cores.
        cores: Jobs at a time.
        gpus: Graphics processors here.
    """
    known = unit_costs()
    slowness = calibration / known["calibration"]
    costs = costs_of(plan)
    runs = dict.fromkeys(plan.parameters, 0.0)
    waiting = 0.0  # of the other cores, while a run has the machine for itself
    for run, *_ in plan.to_make:
        seconds = costs[run.file]["seconds"] * slowness
        runs[run.notebook] += seconds
        waiting += seconds * (cores - 1) * EXPERIMENTS[run.config.experiment].alone
    notebooks = {name: _notebook(plan, name) * slowness for name in plan.parameters}
    frames, parameters = None, plan.parameters.get(DEPTH)
    if parameters and plan.data is None:
        frames = seconds_of(work_of_frames(parameters)) * slowness / cores
    last = notebooks.get("05_verdicts", 0.0) + known["notebooks"]["report"] * slowness
    jobs = (
        waiting + sum(runs.values()) + sum(notebooks.values()) - notebooks.get("05_verdicts", 0.0)
    )
    memory = sorted((costs[run.file]["memory_mb"] for run, *_ in plan.to_make), reverse=True)
    return Estimate(
        runs=runs,
        notebooks=notebooks,
        frames=frames,
        seconds=known["notebooks"]["planning"] * slowness + (frames or 0.0) + jobs / cores + last,
        slowness=slowness,
        reference=known["cpu"],
        memory_mb=sum(memory[:cores]) or 1000.0,
        disk_mb=disk_mb(plan),
        gpu=_gpu(plan, gpus),
    )


def _notebook(plan: Plan, name: str) -> float:
    """Return the seconds of a notebook whose runs are there; 0 where it need not run again."""
    made = plan.results / "notebooks" / f"{name}.ipynb"
    code = (path for folder in ("ubnlib", "experiments") for path in Path(folder).rglob("*.py"))
    sources = [Path("notebooks", f"{name}.ipynb"), *code]
    due = any(run.notebook == name for run, *_ in plan.to_make)
    if made.exists() and not due and name != "05_verdicts":
        if made.stat().st_mtime > max(path.stat().st_mtime for path in sources):
            return 0.0
    return unit_costs()["notebooks"].get(name, 30.0) + seconds_of(trained_again(plan.runs, name))


def trained_again(runs: list[Planned], notebook: str) -> Work:
    """Count the training that a notebook does for its pictures, though the records are there."""
    if notebook != "02_toy_analysis":
        return {}
    total: Work = {}
    for run, *_ in runs:
        config = run.config
        trains = config.experiment == "spiral" and "training" in run.label
        if trains or getattr(config, "method", "") == "mc_ubn":
            for unit, amount in work_of(config).items():
                if unit.startswith(("toy step", "toy row")):
                    total[unit] = total.get(unit, 0.0) + amount
    return total


def disk_mb(plan: Plan) -> float:
    """Return the megabytes that are yet to be written: frames, records, nets, notebooks."""
    kinds = unit_costs()["disk_mb"]
    total = kinds["notebooks"] + sum(
        kinds["record"] + kinds["net"] * run.weights for run, *_ in plan.to_make
    )
    shapes = shapes_of(plan)
    if shapes and plan.data is None:
        height, width = shapes["size"]
        images = shapes["train"] + shapes["test"] * plan.parameters[DEPTH]["frames"]["test_every"]
        total += images * height * width * 6 / 1e6  # RGB, and lidar codes for most pixels
        if not plan.parameters[DEPTH]["kitti_root"]:
            work = work_of_frames(plan.parameters[DEPTH])
            total += kinds["rendered megapixel"] * work["render megapixel"]
    return total


def _gpu(plan: Plan, gpus: int) -> str:
    """Say what graphics processors would do."""
    from experiments.depth.cost import duration
    from experiments.depth.flops import assumed_step

    depth = [run.config for run, *_ in plan.to_make if run.config.experiment == "depth"]
    if not depth:
        return "nothing is left that would use one."
    shapes = shapes_of(plan)
    seconds = sum(
        assumed_step(config, tuple(shapes["size"])) * config.total_steps(shapes["train"])
        for config in depth
    )
    here = f"{gpus} here" if gpus else "none here, so that the processor's cores train"
    return (
        f"{here}. The {len(depth)} runs on frames: about {duration(seconds / 3600, 'GPU-')} on "
        "an H100, assuming a tenth of its bf16 peak; not measured."
    )
