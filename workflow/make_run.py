"""Make the record of one run, as one job of the workflow.

    python workflow/make_run.py results/quick/runs/spiral-KEY.json results/quick/records ...

The record is written last and whole. A depth run that was killed goes on from its checkpoint.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from experiments.common.records import Config, Record, obtain, record_path, write_record
from registry import EXPERIMENTS
from terminal import describe, duration, say


def make_run(
    config: Config, folder: Path, frames: Path | None, weights: bool, workers: int
) -> Record:
    """Return a run's record, making it where it is missing or of an older version.

    Args:
        config: The run.
        folder: Where its record goes; the folder above is that of the results.
        frames: What `prepare_data` wrote, for runs on frames.
        weights: Whether the trained net must be there too.
        workers: Processes that read frames ahead.
    """
    experiment = EXPERIMENTS[config.experiment]
    _, run = experiment.load()
    if not experiment.frames:
        return obtain(config, run, folder)
    from experiments.depth.data import DepthData, usual_split
    from experiments.depth.train import obtain_depth, weights_path
    from ubnlib.kitti import PackedDepth

    found = json.loads(frames.read_text(encoding="utf-8"))
    packed = PackedDepth(found["packed"])
    split = usual_split(packed.keys, found["parameters"]["frames"]["test_every"])
    data = DepthData(packed, *split)
    kept = folder.parent / "weights"
    options = {"weights": kept, "checkpoints": folder.parent / "checkpoints", "workers": workers}
    net = weights_path(config, kept)
    if weights and record_path(config, folder).exists() and not net.exists():
        # The record alone is not enough: make it where there is none, and put it in its place.
        with tempfile.TemporaryDirectory() as elsewhere:
            record = obtain_depth(config, data, elsewhere, **options)
        write_record(record, folder)
        return record
    return obtain_depth(config, data, folder, **options)


def main() -> None:
    """Make the run named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's configuration, a JSON file")
    parser.add_argument("folder", type=Path, help="where its record goes")
    parser.add_argument("--label", default="", help="what the run is called")
    parser.add_argument("--plan", type=Path, required=True, help="the plan that it is a part of")
    parser.add_argument("--data", type=Path, help="what prepare_data.py wrote")
    parser.add_argument("--weights", action="store_true", help="the trained net is needed too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--log", type=Path, required=True)
    args = parser.parse_args()
    args.log.parent.mkdir(parents=True, exist_ok=True)
    with args.log.open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    name, start = args.run.stem, time.monotonic()
    logging.info("%s: %s", name, args.label)
    try:
        import torch

        torch.set_num_threads(args.threads)
        kind, _ = EXPERIMENTS[name.rpartition("-")[0]].load()
        config = kind.model_validate_json(args.run.read_text(encoding="utf-8"))
        make_run(config, args.folder, args.data, args.weights, args.workers)
    except (Exception, KeyboardInterrupt) as error:
        logging.exception("no record")
        for partial in args.folder.glob(f"{name}.{os.getpid()}.partial"):
            partial.unlink()
        how = "stopped" if isinstance(error, KeyboardInterrupt) else "FAILED"
        say(f"run {name} ({args.label}) {how}: {describe(error)} (log: {args.log})")
        raise SystemExit(1) from None
    say(f"{progress(args.plan)}: {args.label}, {duration(time.monotonic() - start)}")


def progress(path: Path) -> str:
    """Say how many of a plan's runs are done, and about how long the others take at this pace."""
    plan = json.loads(path.read_text(encoding="utf-8"))
    results, written = Path(plan["results"]), path.stat().st_mtime
    done, left = [], []
    for file, run in plan["runs"].items():
        if run["state"] != "there":
            record = results / file
            made = record.exists() and record.stat().st_mtime > written
            (done if made else left).append(run["seconds"])
    count = f"run {len(done)} of {len(done) + len(left)}"
    if not done or not left:
        return count
    rest = (time.time() - written) * sum(left) / sum(done)
    return f"{count}, about {duration(rest)} left"


if __name__ == "__main__":
    main()
