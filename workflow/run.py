"""Make the records of one job of a plan: `python workflow/run.py results/quick/plan.json JOB`.

Each record is written when its run ends, so that a job that was killed goes on where it was; a
depth run goes on from its checkpoint. A run that fails does not keep the job's others from running.
"""

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.common.files import whole
from experiments.common.records import Config, obtain, write_record
from experiments.depth.data import split_data
from experiments.depth.train import obtain_depth, weights_path
from job import duration, log_to, say, told
from plan import EXPERIMENTS
from ubnlib.kitti import PackedDepth
from ubnlib.kitti.prepare import usable_cores


def make_run(config: Config, folder: Path, frames: Path, weights: bool, workers: int) -> None:
    """Make a run's record where it is missing or of an older version.

    The folder above that of the records is that of the results; `weights` says whether the trained
    net must be there too, and `workers` how many processes read frames ahead.
    """
    experiment = EXPERIMENTS[config.experiment]
    if not experiment.frames:
        obtain(config, experiment.run, folder)
        return
    found = json.loads(frames.read_text(encoding="utf-8"))
    asked = found["asked"]
    data = split_data(PackedDepth(found["packed"]), asked["split"], asked["frames"]["test_every"])
    if config.experiment != "depth":
        obtain(config, partial(experiment.run, data=data), folder)
        return
    kept = folder.parent / "weights"
    options = {"weights": kept, "checkpoints": folder.parent / "checkpoints", "workers": workers}
    options["progress"] = f"{config.arm} 1/{config.labels.k}, seed {config.seed}"  # into the log
    if not weights or weights_path(config, kept).exists():
        obtain_depth(config, data, folder, **options)
        return
    # The record alone is not enough: make it where there is none, and put it in its place.
    with tempfile.TemporaryDirectory() as elsewhere:
        write_record(obtain_depth(config, data, Path(elsewhere), **options), folder)


def main(plan_file: Path, name: str, gpus: int = 0) -> None:
    """Make the runs of a job that are not there yet, then leave its mark."""
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    results, job = Path(plan["results"]), plan["jobs"][name]
    log = results / "logs" / f"{name}.log"
    log_to(log)
    torch.set_num_threads(usable_cores() if job["alone"] else 1)
    failed = 0
    for run in job["runs"]:
        start, record = time.monotonic(), results / run["record"]
        try:
            with told(run["label"], log):
                text = (results / run["config"]).read_text(encoding="utf-8")
                kind = EXPERIMENTS[json.loads(text)["experiment"]].config
                config = kind.model_validate_json(text)
                make_run(config, record.parent, results / "frames.json", run["weights"], 2 * gpus)
            say(
                f"{progress(plan, plan_file)}: {run['label']}, {duration(time.monotonic() - start)}"
            )
        except SystemExit as end:
            if end.code == 130:
                raise
            failed += 1
    if failed:
        raise SystemExit(1)
    with whole(results / "jobs" / f"{name}.done") as partial:
        partial.touch()


def progress(plan: dict[str, Any], plan_file: Path) -> str:
    """Say how many of a plan's runs are done, and about how long the others take at this pace."""
    written, results = plan_file.stat().st_mtime, Path(plan["results"])
    done, left = [], []
    for run in (run for job in plan["jobs"].values() for run in job["runs"]):
        record = results / run["record"]
        made = record.exists() and record.stat().st_mtime > written
        (done if made else left).append(run["seconds"] or 60.0)
    count = f"run {len(done)} of {len(done) + len(left)}"
    if not done or not left:
        return count
    return f"{count}, about {duration((time.time() - written) * sum(left) / sum(done))} left"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
