"""Time what a unit of work costs on this machine, and write `unit_costs.json`.

    OMP_NUM_THREADS=1 python workflow/measure_units.py

Short runs of each experiment in several sizes are timed, then the units fitted to them, none of
which is negative; memory and sizes of files are those of the quick profile's results, as is the
time of its notebooks, whose runs were there. So `make reproduce` comes first.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from tqdm import tqdm

from calibrate import seconds_at_once, seconds_here
from check_profile import run_parameters
from costs import trained_again
from experiments.ablation.plan import claimed, smaller
from experiments.ablation.study import reader
from experiments.ablation.tuning import tune
from experiments.common.provenance import provenance
from experiments.common.records import Config, read_record
from experiments.depth.data import DepthData, usual_split
from experiments.depth.plan import depth_runs
from experiments.method import runs as method
from experiments.toy import runs as toy
from plan import Plan, make_plan
from prepare_data import prepare_data
from read_notebook import read_notebook
from registry import EXPERIMENTS
from ubnlib.kitti import PackedDepth
from whole import write_whole
from work import UNITS, work_of, work_of_frames

FRAMES = {
    "kitti_root": "",
    "synthetic": {"drives": 4, "frames": 8, "scale": 0.25},
    "frames": {"cameras": [2, 3], "size": [24, 80], "test_every": 1},
}
NET = {"width": 0.25, "levels": 4}


def method_configs() -> list[Config]:
    """Return the runs of section 3, of one seed; timings have a few."""
    return [run.config for run in method.notebook_runs({"seeds": 1}) if run.config.seed < 3]


def toy_configs() -> list[Config]:
    """Return runs of the toy, short and less short, of few and of many nets."""
    configs = []
    for seeds, steps, labeled in itertools.product((3, 12), (20, 80), (25, 100)):
        runs = toy.toy_runs(dict(
            seeds=seeds, first_seed=0, steps=steps, noise=0.0, labeled_per_class=labeled,
            unlabeled_per_class=200, uncertainty_samples=2 * seeds, ensemble_nets=2,
            with_ubn_ensemble=False, augmentations=1,
        ))  # fmt: skip
        purposes = ["training", "steps of all points"]
        purposes += ["features", "uncertainty", "augmentation"] * (labeled == 25 and steps == 20)
        configs += [config for purpose in purposes for config in runs[purpose].values()]
    return configs


def ablation_configs(study: Path) -> list[Config]:
    """Return short runs of the ablation's spiral and digits."""
    found = []
    for domain, sizes in (("spiral", ((3, 20), (12, 80))), ("digits", ((1, 10), (2, 30)))):
        runs = claimed(domain, tune(domain, reader(study / "ablation_tuning")))
        few = runs[0].setting.labels
        some = [run for run in runs if run.setting.labels == few][::6]
        found += [smaller(run, *size) for run in some for size in sizes]
    return found


def timed_runs(
    study: Path, folder: Path, usual: float
) -> tuple[list[dict[str, float]], list[float]]:
    """Make frames in a folder, and the short runs; return the work in each and its seconds.

    Args:
        study: Folder of the study's records, of the tuning above all.
        folder: Where frames go.
        usual: Seconds of the calibration that all seconds are meant for.
    """
    works, seconds = [], []

    def note(work: dict[str, float], start: float) -> None:
        took = time.perf_counter() - start
        works.append(work)
        seconds.append(took * usual / seconds_here(1))  # the machine is faster now and slower then

    for scale, drives in ((0.125, 2), (0.125, 6), (0.25, 2), (0.25, 6)):
        parameters = {**FRAMES, "data_root": str(folder / f"{scale}-{drives}")}
        parameters["synthetic"] = {"drives": drives, "frames": 8, "scale": scale}
        start = time.perf_counter()
        found = prepare_data(parameters)
        note(work_of_frames(parameters), start)
    frames = PackedDepth(found["packed"])
    data = DepthData(frames, *usual_split(frames.keys, 1))
    shape = {"train": found["train"], "test": found["test"], "size": FRAMES["frames"]["size"]}
    jobs: list[tuple[Config, tuple[Any, ...]]] = [
        (config, ()) for config in method_configs() + toy_configs() + ablation_configs(study)
    ]
    for steps, batch in ((10, [4, 4]), (60, [4, 4]), (40, [8, 8])):
        runs = depth_runs(
            data.fingerprint, label_every=[4], batch=batch, steps=steps, learning_rate=1e-3,
            seeds=1, net=NET, engine={"passes": "two"},
        )  # fmt: skip
        jobs += [(run.config, (data,)) for run in runs]
    for config, arguments in tqdm(jobs, desc="short runs"):
        _, run = EXPERIMENTS[config.experiment].load()
        start = time.perf_counter()
        run(config, *arguments)
        work = work_of(config, shape)
        del work[f"start {config.experiment}"]
        note(work, start)
    return works, seconds


def fitted(works: list[dict[str, float]], seconds: list[float]) -> dict[str, float]:
    """Return what a unit of each kind of work costs, none of them negative.

    Each run counts the same, whether short or long: relative errors are made small.
    """
    units = sorted({unit for work in works for unit in work})
    amounts = np.array([[work.get(unit, 0.0) for unit in units] for work in works])
    total = np.array(seconds)
    scale = amounts.max(axis=0).clip(min=1e-12)
    found, _ = nnls(amounts / scale / total[:, None], np.ones(len(total)))
    return dict(zip(units, found / scale, strict=True))


def starts() -> dict[str, float]:
    """Return the seconds that a process of each experiment takes before it runs."""
    found = {}
    for name, experiment in EXPERIMENTS.items():
        times = []
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {experiment.module}"], check=True)
            times.append(time.perf_counter() - start)
        found[f"start {name}"] = min(times)
    return found


def most_memory(*folders: Path) -> dict[str, float]:
    """Return the most megabytes that a run of each experiment took, by its records."""
    memory: dict[str, float] = {}
    for record in (read_record(path) for folder in folders for path in folder.glob("*-*.json")):
        memory[record.experiment] = max(
            memory.get(record.experiment, 0), record.made.peak_memory_mb
        )
    return memory


def sizes(results: Path, plan: Plan, prices: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return disk and the notebooks' seconds, of a profile's results."""
    notebooks = {}
    for path in sorted((results / "notebooks").glob("*.ipynb")):
        again = trained_again(plan.runs, path.stem)
        seconds = read_notebook(path)["metadata"]["papermill"]["duration"]
        notebooks[path.stem] = seconds - sum(n * prices[unit] for unit, n in again.items())
    program = [sys.executable, str(UNITS.with_name("make_report.py"))]
    arguments = [f"profiles/{plan.profile}.yaml", str(results)]
    notebooks["report"] = _seconds([*program, *arguments])
    notebooks["planning"] = 2 * _seconds([sys.executable, "-m", "snakemake", "--version"])
    return {
        "notebooks": {name: round(value, 1) for name, value in notebooks.items()},
        "disk_mb": {
            "record": _mean_mb(results / "records"),
            "net": _mean_mb(results / "weights"),
            "notebooks": round(sum(_mb(results / name) for name in ("notebooks", "figures")), 1),
        },
    }


def _seconds(command: list[str]) -> float:
    """Run a command and return what it took."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _mb(folder: Path) -> float:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _mean_mb(folder: Path) -> float:
    """Return the mean size of a folder's files."""
    return round(_mb(folder) / len(list(folder.iterdir())), 4)


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=Path("results/standard"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # rendering would take all cores
    usual = seconds_at_once(1)
    with tempfile.TemporaryDirectory() as folder:
        works, seconds = timed_runs(args.study, Path(folder), usual)
        rendered = works[3]["render megapixel"]
        raw_mb = _mb(Path(folder, "0.25-6", "synthetic")) / rendered
    prices, processes = fitted(works, seconds), starts()
    slowness = seconds_at_once(1) / usual
    prices |= {unit: price / slowness for unit, price in processes.items()}
    guessed = [sum(n * prices[unit] for unit, n in work.items()) for work in works]
    errors = np.log(np.array(guessed) / np.array(seconds))
    results = Path("results", "quick").absolute()
    plan = make_plan("quick", results, run_parameters("quick", Path.cwd(), results))
    here = provenance()
    content = {
        "cpu": here.cpu,
        "versions": here.versions,
        "finished": here.when.isoformat(),
        "calibration": round(usual, 4),
        "runs": len(works),
        "typical_error": round(float(np.exp(np.abs(errors).mean())), 2),  # a factor
        "seconds": {unit: float(f"{price:.3g}") for unit, price in sorted(prices.items())},
        "memory_mb": most_memory(results / "records", args.study / "records"),
        **sizes(results, plan, prices),
    }
    content["disk_mb"]["rendered megapixel"] = round(raw_mb, 3)
    write_whole(UNITS, json.dumps(content, indent=1) + "\n")
    print(UNITS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
