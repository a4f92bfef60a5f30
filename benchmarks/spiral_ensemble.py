"""Compare training the spiral's seeds side by side with training them one by one.

Times go into spiral_ensemble.json, and a table of them into the folder's README.md.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import WARM_UP, alternate
from pydantic import BaseModel, ConfigDict
from tables import SPIRAL_FILE, SPIRAL_MARK, Ratio, aligned, write_part, write_whole
from tqdm import tqdm

from experiments.common.parallel import obtain_all
from experiments.common.provenance import Provenance, provenance
from experiments.common.training import BNConfig, UBNConfig
from experiments.toy.train import SpiralConfig, run_spiral, train_spiral

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
METHODS = {
    "BN": BNConfig(),
    "UBN, corrected": UBNConfig(),
    "UBN, none": UBNConfig(stats_grad="none"),
    "UBN, all": UBNConfig(stats_grad="all"),
}
LIMIT = 60.0  # seconds of a sweep over all methods
TEXT = """\
# What training many seeds costs

Written by `python benchmarks/spiral_ensemble.py`; spiral_ensemble.json holds every single time and
where it was measured.

The default setting of `SpiralConfig`: {labeled_batch} labeled and, for UBN, {unlabeled_batch}
unlabeled points a step; {cpu}, one thread a process; torch {torch}.
*side by side* is `train_spiral` with {seeds} seeds, and *alone* with one of them; *one by one* is
{seeds} times as long. They take turns, {short} steps each, and milliseconds are for one step.
*times as fast* is the median of the ratios within each turn. Intervals are by order statistics,
where the repeats are enough for one. That both give the same nets shows
tests/experiments/test_ensemble.py.
"""


class Report(BaseModel):
    """The JSON file; times are by method, one for each repeat."""

    model_config = ConfigDict(extra="forbid")

    setting: SpiralConfig  # of a run in the sweep
    steps: int  # of those that take turns
    together: dict[str, list[float]]  # milliseconds a step, all seeds
    alone: dict[str, list[float]]  # milliseconds a step, one seed
    processes: int
    sweeps: list[float]  # seconds
    provenance: Provenance

    def markdown(self) -> str:
        """Write what was measured, the table, and whether the limit was kept."""
        s, p, seeds = self.setting, self.provenance, len(self.setting.seeds)
        rows = []
        for method, together in self.together.items():
            one_by_one = np.multiply(seeds, self.alone[method])
            times = (_median(times) for times in (together, self.alone[method], one_by_one))
            rows.append([method, *times, Ratio.of(one_by_one, together)])
        header = ["method", f"{seeds} side by side [ms]", "alone [ms]", "one by one [ms]"]
        facts = dict(seeds=seeds, cpu=p.cpu, torch=p.versions["torch"], short=self.steps)
        limit = (
            f"- all {len(self.together)} methods, {seeds} seeds, {s.steps} steps, measured and "
            f"recorded, in {self.processes} process(es), in seconds: "
            f"{_median(self.sweeps).against(LIMIT)}"
        )
        text = TEXT.format(**s.model_dump(exclude={"seeds"}) | facts)
        return "\n".join([text, *aligned([*header, "times as fast"], rows), "", limit, ""])


def _median(times: list[float] | np.ndarray) -> Ratio:
    return Ratio.of(times, np.ones(len(times)))


def take_turns(setting: SpiralConfig, steps: int, repeats: int) -> dict[str, dict]:
    """Return the milliseconds of a step, all seeds together and one alone, by method."""
    runs = {}
    for method, norm in METHODS.items():
        for name, seeds in {"together": setting.seeds, "alone": setting.seeds[:1]}.items():
            config = setting.model_copy(update=dict(norm=norm, seeds=seeds, steps=steps))
            runs[method, name] = lambda config=config: train_spiral(config)
    with tqdm(total=(WARM_UP + repeats) * len(runs), unit="run", disable=None) as bar:
        times = alternate(runs, repeats, "cpu", bar.update)
    return {
        name: {method: [ms / steps for ms in times[method, name]] for method in METHODS}
        for name in ("together", "alone")
    }


def sweep(setting: SpiralConfig, processes: int) -> float:
    """Return the seconds that the records of all methods take."""
    configs = [setting.model_copy(update=dict(norm=norm)) for norm in METHODS.values()]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        obtain_all(configs, run_spiral, folder, processes=processes)
        return round(time.perf_counter() - start, 3)


def main() -> int:
    """Parse the arguments, measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    add, steps = parser.add_argument, SpiralConfig().steps
    add("--seeds", type=int, default=30, help="nets side by side (30)")
    add("--turn-steps", type=int, default=100, help="optimizer steps of a turn (100)")
    add("--repeats", type=int, default=9, help="timed turns (9)")
    add("--steps", type=int, default=steps, help=f"optimizer steps in the sweep ({steps})")
    add("--sweeps", type=int, default=3, help="timed sweeps over all methods (3)")
    add("--processes", type=int, default=2, help="of a sweep (2)")
    add("--out", type=Path, default=RESULTS, help="folder of the results (results/benchmarks)")
    arguments = parser.parse_args()
    try:
        for name, value in vars(arguments).items():
            if name != "out" and value < 1:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} {value}: it must be at least 1.")
        torch.set_num_threads(1)
        setting = SpiralConfig(seeds=range(arguments.seeds), steps=arguments.steps)
        origin = provenance()
        report = Report(
            setting=setting,
            steps=arguments.turn_steps,
            **take_turns(setting, arguments.turn_steps, arguments.repeats),
            processes=arguments.processes,
            sweeps=[sweep(setting, arguments.processes) for _ in range(arguments.sweeps)],
            provenance=origin,
        )
        print(report.markdown())
        write_whole(arguments.out / SPIRAL_FILE, report.model_dump_json(indent=1) + "\n")
        print(write_part(arguments.out, SPIRAL_MARK, report.markdown()))
    except (ValueError, OSError) as error:
        print(f"spiral_ensemble: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("spiral_ensemble: interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
