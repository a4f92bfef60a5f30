"""How much work there is in a run and in the frames, and what a unit of it costs.

`unit_costs.json` has the units as `measure_units.py` timed them on one machine, together with the
time of a short calibration; the same calibration elsewhere, with all cores busy, says how much
faster or slower that machine is.
"""

import functools
import json
from pathlib import Path
from typing import Any

from experiments.common.records import Config

UNITS = Path(__file__).with_name("unit_costs.json")
LOOKS = 6 * 32  # images that are looked at in an evaluation on the way
Work = dict[str, float]


@functools.cache
def unit_costs() -> dict[str, Any]:
    """Read the units: `seconds` by unit, `memory_mb` and `disk_mb` by experiment, and how made."""
    return json.loads(UNITS.read_text(encoding="utf-8"))


def work_of(config: Config, data: dict[str, Any] | None = None) -> Work:
    """Count the units of work in a run.

    Args:
        config: The run.
        data: For depth: numbers of `train` and `test` images, and `size`, height and width.
    """
    experiment = config.experiment
    work = {f"start {experiment}": 1.0}
    if experiment.startswith("spiral"):
        return work | _work_of_spiral(config)
    if experiment == "ablation":
        setting, seeds = config.setting, len(config.seeds)
        rows = setting.labeled_batch + setting.other_batch * (config.method.norm.kind == "ubn")
        together = 1 if config.domain == "spiral" else seeds  # digits train one seed at a time
        return work | {
            f"{config.domain} step": setting.steps * together,
            f"{config.domain} row": setting.steps * seeds * rows,
        }
    if experiment == "depth":
        return work | _work_of_depth(config, data)
    return work | {f"measure {experiment}": 1.0}


def _work_of_spiral(config: Config) -> Work:
    """Count training, and what each experiment measures afterwards."""
    seeds, kind = len(config.seeds), config.norm.kind
    rows = config.labeled_batch + config.unlabeled_batch * (kind == "ubn")
    method, samples = getattr(config, "method", ""), getattr(config, "samples", 1)
    nets = seeds * (samples if method.endswith("ensemble") else 1)
    return {
        f"toy step, {kind}": config.steps * nets / seeds,
        "toy row": config.steps * nets * rows,
        f"measure {config.experiment}": seeds,
        "toy sample": nets * samples * method.startswith("mc"),
        "toy move": seeds * getattr(config, "changes", 0),
    }


def _work_of_depth(config: Config, data: dict[str, Any] | None) -> Work:
    """Count operations, forward and backward in training, forward in evaluation."""
    from experiments.depth.flops import flops_of_image, flops_of_step

    size = tuple(data["size"])
    forward, _ = flops_of_image(config.width, config.levels, size)
    steps = config.total_steps(data["train"])
    looks = 2 * data["test"] + LOOKS * config.evaluations
    return {
        "depth step": steps,
        "depth TFLOP": steps * flops_of_step(config, size) / 1e12,
        "depth TFLOP forward": looks * forward / 1e12,
    }


def seconds_of(work: Work) -> float:
    """Return what some work takes on the machine of the units, on one core."""
    prices = unit_costs()["seconds"]
    return sum(amount * prices[unit] for unit, amount in work.items() if amount)


def work_of_frames(parameters: dict[str, Any]) -> Work:
    """Count the units of work in rendering and packing frames.

    Args:
        parameters: Notebook 3's.
    """
    frames, synthetic = parameters["frames"], parameters["synthetic"]
    if parameters["kitti_root"]:
        return {"pack frame": 42_304 + 2_480}
    rendered = synthetic["drives"] * synthetic["frames"]
    return {
        "start rendering": 1.0,
        "render frame": rendered,
        "render megapixel": rendered * 2 * 0.466 * synthetic["scale"] ** 2,  # of both cameras
        "pack frame": rendered * len(frames["cameras"]),
    }
