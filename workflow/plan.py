"""The plan of a profile: its runs, what is there of each, and the jobs that make the others.

A plan is written as JSON, and the Snakefile reads nothing else, so that all jobs, on this machine
or on others, work by the same plan.
"""

import contextlib
import json
import math
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

import experiments.ablation.runs
import experiments.depth.runs
import experiments.method.runs
import experiments.toy.runs
from experiments.common.files import whole
from experiments.common.records import Config, NewerRecord, PlannedRun, current_record, record_path
from frames import plan_frames, read_frames
from job import describe

DEPTH = "03_depth_experiments"  # the notebook whose runs need packed frames
SECTIONS = {
    "01_method": experiments.method.runs,
    "02_toy_analysis": experiments.toy.runs,
    DEPTH: experiments.depth.runs,
    "04_ablation": experiments.ablation.runs,
}
EXPERIMENTS = {
    name: experiment
    for section in SECTIONS.values()
    for name, experiment in section.EXPERIMENTS.items()
}
SHORT = 60.0  # seconds: runs that take less share a process, which takes seconds to start
UNKNOWN = 24 * 3600.0  # seconds that a cluster allows where no record says how long a run takes
AT_HAND = ("there", "if same frames")  # states that cost nothing, the second if all goes well


class Planned(NamedTuple):
    """A run, the first notebook that needs it, and what is there of it."""

    run: PlannedRun
    notebook: str
    state: Literal["there", "if same frames", "missing", "outdated", "damaged"]
    reason: str = ""  # of what is damaged
    seconds: float | None = None  # about what it takes on one core; None where nothing tells

    @property
    def file(self) -> str:
        """The record's place in the results."""
        return str(record_path(self.run.config, self.run.folder))

    @property
    def needs_frames(self) -> bool:
        """Whether it trains on packed frames."""
        return EXPERIMENTS[self.run.config.experiment].frames


class Plan(NamedTuple):
    """What a profile needs."""

    profile: str
    results: Path  # the folder of its results
    parameters: dict[str, dict[str, Any]]  # all, by notebook
    frames: dict[str, Any] | None  # as `frames.py` wrote it; None where there are none yet
    runs: list[Planned]  # all; those on frames that are not there have no fingerprint

    @property
    def to_make(self) -> list[Planned]:
        """The runs that are not there, or not as they should be."""
        return [planned for planned in self.runs if planned.state != "there"]


def make_plan(profile: str, results: Path, parameters: dict[str, dict[str, Any]]) -> Plan:
    """List a profile's runs and look at the records that are there; nothing is changed."""
    depth = parameters.get(DEPTH)
    frames = read_frames(results / "frames.json", depth) if depth else None
    seconds = estimator([results, Path("results/standard").absolute()])
    # Frames that were asked for otherwise cannot come out the same.
    others = set() if (results / "frames.json").exists() else _fingerprints(results)
    runs: dict[str, Planned] = {}
    for notebook, values in parameters.items():
        if notebook in SECTIONS:
            data = frames["fingerprint"] if frames else ""
            for run in _runs(profile, notebook, values, data):
                planned = Planned(run, notebook, *look_at(run, results), seconds(run.config))
                if planned.needs_frames and _on_any(others, run, results):
                    planned = planned._replace(state="if same frames")
                runs.setdefault(planned.file, planned)
    return Plan(profile, results, parameters, frames, list(runs.values()))


def _runs(profile: str, notebook: str, values: dict[str, Any], data: str) -> list[PlannedRun]:
    """Return a notebook's runs; a ValueError says which profile asks for what cannot be."""
    try:
        return SECTIONS[notebook].notebook_runs(values, data)
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        what = describe(error) if isinstance(error, ValueError) else repr(error)
        raise ValueError(
            f"profiles/{profile}.yaml: {notebook} cannot be planned: {what}"
        ) from error


def look_at(run: PlannedRun, results: Path) -> tuple[str, str]:
    """Return the state of a run, and the reason where it is damaged."""
    folder = results / run.folder
    try:
        record = current_record(run.config, folder)
    except NewerRecord:
        raise
    except (ValueError, OSError) as error:
        return "damaged", str(error)
    if record is None:
        return ("outdated" if record_path(run.config, folder).exists() else "missing"), ""
    if run.weights and not (results / "weights" / f"{record.key}.pt").exists():
        return "outdated", ""
    return "there", ""


def _fingerprints(results: Path) -> set[str]:
    """Return the fingerprints of the frames that depth records were made on."""
    found = set()
    for path in (results / "records").glob("depth-*.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):  # told of elsewhere
            found.add(json.loads(path.read_text(encoding="utf-8"))["config"]["data"])
    return found


def _on_any(others: Iterable[str], run: PlannedRun, results: Path) -> bool:
    """Say whether a run is there on frames of one of these fingerprints."""
    configs = (run.config.model_copy(update={"data": data}) for data in others)
    return any(look_at(run._replace(config=c), results)[0] == "there" for c in configs)


def set_aside(plan: Plan) -> list[str]:
    """Rename damaged records, so that they are made again, and say so in a sentence each."""
    said = []
    for planned in plan.runs:
        path = plan.results / planned.file
        if planned.state == "damaged" and path.exists():
            earlier = len(list(path.parent.glob(f"{path.name}.damaged*"))) or ""
            kept = path.replace(path.with_name(f"{path.name}.damaged{earlier}"))
            reason = planned.reason.partition(": delete it")[0]
            said.append(f"{reason}: kept as {kept.name}, and made again.")
    return said


def estimator(folders: Iterable[Path]) -> Callable[[Config], float | None]:
    """Return a function that says about how long a run takes, from the seconds in records.

    It is the median of runs alike by step and seed, from the first folder that has some: right
    within a factor of about two, also because the committed records are of another machine.
    """
    rates: dict[tuple, float] = {}
    for folder in folders:
        found = defaultdict(list)
        for path in (folder / "records").glob("*.json"):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                kind, size = _kind_and_size(record["config"])
                found[kind].append(record["seconds"] / size)
            except (ValueError, KeyError, TypeError, OSError):
                continue  # a damaged record is told of elsewhere
        rates = {kind: statistics.median(values) for kind, values in found.items()} | rates

    def seconds(config: Config) -> float | None:
        kind, size = _kind_and_size(config.model_dump(mode="json"))
        return rates[kind] * size if kind in rates else None

    return seconds


def _kind_and_size(config: dict[str, Any]) -> tuple[tuple, int]:
    """Return what runs must share to be alike in cost, and steps times seeds."""
    method = config.get("method")
    alike = [config.get(name) for name in ("experiment", "domain", "width", "levels")]
    steps = config.get("steps") or config.get("setting", {}).get("steps", 1)
    return (*alike, method if isinstance(method, str) else None), steps * len(
        config.get("seeds", [0])
    )


def jobs_of(planned: list[Planned], cores: int) -> dict[str, list[Planned]]:
    """Divide runs into jobs: short ones share a process, and each long one has its own."""
    short = sum(p.seconds or SHORT for p in planned if (p.seconds or SHORT) < SHORT)
    most = min(SHORT, max(10.0, short / (2 * cores)))
    jobs: dict[str, list[Planned]] = {}
    filled: dict[tuple, tuple[str, float]] = {}  # by what a job's runs share: it, and its seconds
    for one in planned:
        alone = EXPERIMENTS[one.run.config.experiment].alone
        share = (one.notebook, one.needs_frames, alone)
        seconds = SHORT if one.seconds is None else one.seconds
        name, so_far = filled.get(share, ("", most))
        if not name or (so_far + seconds > most and not alone):
            name, so_far = f"{one.notebook}-{len(jobs) + 1}", 0.0
            jobs[name] = []
        jobs[name].append(one)
        filled[share] = (name, so_far + seconds)
    return jobs


def write_plan(plan: Plan, cores: int, notebooks: bool = True) -> Path:
    """Write what the jobs work by: the plan, and each run's configuration under `runs/`.

    Of an earlier plan's jobs nothing is kept: what they made is there, and no part of this one.
    """
    shutil.rmtree(plan.results / "jobs", ignore_errors=True)
    for run, *_ in plan.runs:
        _write(plan.results / _config_file(run), run.config.model_dump_json(indent=1))
    jobs = {}
    for name, runs in jobs_of(plan.to_make, cores).items():
        jobs[name] = {
            "notebook": runs[0].notebook,
            "frames": runs[0].needs_frames,
            "alone": EXPERIMENTS[runs[0].run.config.experiment].alone,
            "memory": max(_memory(plan, p) for p in runs),
            "minutes": 30 + round(sum(p.seconds or UNKNOWN for p in runs) / 20),  # thrice as long
            "runs": [
                {
                    "label": p.run.label,
                    "config": _config_file(p.run),
                    "record": p.file,
                    "weights": p.run.weights,
                    "seconds": p.seconds,
                }
                for p in runs
            ],
        }
    content = {
        "profile": plan.profile,
        "results": str(plan.results),
        "parameters": plan.parameters if notebooks else {},
        "frames": plan.parameters.get(DEPTH),
        "jobs": jobs,
        "there": {
            notebook: [p.file for p in plan.runs if p.state == "there" and p.notebook == notebook]
            for notebook in plan.parameters
        },
    }
    _write(plan.results / "plan.json", json.dumps(content, indent=1))
    return plan.results / "plan.json"


def _memory(plan: Plan, planned: Planned) -> int:
    """Return about how many megabytes a run takes."""
    if not planned.needs_frames:
        return 2000
    return memory_of(planned.run.config, plan.parameters[DEPTH]["frames"]["size"])


def memory_of(config: Config, size: Sequence[int]) -> int:
    """Return about how many megabytes a depth run takes: weights and Adam, and all activations.

    Measured on a CPU at 256x832 and full width: 1,170 bytes for each pixel of an image in float32.
    """
    if config.experiment == "constant_map":
        return 2000
    images = (config.labeled_batch + config.unlabeled_batch) / config.engine.accumulate
    weights = 32e6 * config.width**2 * 16
    return round(700 + (weights + images * math.prod(size) * config.width * 1200) / 1e6)


def _about_frames(plan: Plan, cores: int) -> list[str]:
    """Return lines on the frames of the depth runs: their split, and what packing takes."""
    if DEPTH not in plan.parameters:
        return []
    if plan.frames:
        return ["Frames of the depth runs: packed", plan.frames["report"]]
    return [f"Frames of the depth runs: {plan_frames(plan.parameters[DEPTH], cores)}"]


def _config_file(run: PlannedRun) -> str:
    return f"runs/{record_path(run.config, '').name}"


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with whole(path) as partial:
            partial.write_text(text, encoding="utf-8")


def text_of(plan: Plan, cores: int) -> str:
    """Write a plan for the terminal: what there is, and about how long the rest takes."""
    table = pd.DataFrame(
        [(p.notebook, p.state, 0 if p.state in AT_HAND else p.seconds) for p in plan.runs],
        columns=["notebook", "state", "seconds"],
    )
    counts = pd.crosstab(table["notebook"], table["state"])
    seconds = table.groupby("notebook")["seconds"].sum(min_count=1) / 60
    lines = [
        f"Profile {plan.profile}, into {plan.results}",
        counts.assign(**{"minutes on one core": seconds.round(1)}).to_string(),
        *_about_frames(plan, cores),
        f"Runs: about {table['seconds'].sum() / 60 / cores:.0f} min on {cores} cores, by the "
        "median of recorded seconds (right within a factor of two); then notebooks and report.",
    ]
    if needing := [_memory(plan, p) for p in plan.runs if p.needs_frames]:
        most = max(needing) / 1000
        lines.append(f"A depth run takes about {most:.1f} GB of memory, on a GPU of the GPU's.")
    if likely := int((table["state"] == "if same frames").sum()):
        lines.append(
            f"{likely} of these runs have a record if the frames come out the same: their minutes "
            "are left out."
        )
    unknown = int(table["seconds"].isna().sum())
    if unknown:
        lines.append(f"No record tells how long {unknown} of these runs take: none is alike.")
    lines += [p.reason for p in plan.runs if p.state == "damaged"]
    return "\n".join(lines)
