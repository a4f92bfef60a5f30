"""The plan of a profile: every run with what is there of it already, as a JSON file.

The Snakefile reads this file and nothing else, so that all of its jobs, on this machine or on
others, work by the same plan.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.common.records import OldRecordError, read_record
from prepare_data import read_data
from registry import EXPERIMENTS
from runs import Run, runs_of
from whole import write_whole

DEPTH = "03_depth_experiments"  # the notebook whose runs need packed frames
State = Literal["there", "missing", "outdated", "damaged"]


class Planned(NamedTuple):
    """A run, and what is there of it."""

    run: Run
    state: State
    reason: str = ""


class Plan(NamedTuple):
    """What a profile needs.

    Attributes:
        profile: Its name.
        results: The folder of its results.
        parameters: All parameters, by notebook.
        data: What `prepare_data` wrote of the frames; None where they are not there yet.
        runs: All runs; those on frames that are not there have no fingerprint.
    """

    profile: str
    results: Path
    parameters: dict[str, dict[str, Any]]
    data: dict[str, Any] | None
    runs: list[Planned]

    @property
    def to_make(self) -> list[Planned]:
        """The runs that are not there, or not as they should be."""
        return [planned for planned in self.runs if planned.state != "there"]


def make_plan(profile: str, results: Path, parameters: dict[str, dict[str, Any]]) -> Plan:
    """List a profile's runs and look at the records that are there; nothing is changed."""
    depth = parameters.get(DEPTH)
    data = read_data(results / "data.json", depth) if depth else None
    runs = runs_of(parameters, data["fingerprint"] if data else "")
    seen = _without_data(results) if depth and not data else {}
    return Plan(profile, results, parameters, data, [look_at(run, results, seen) for run in runs])


def look_at(run: Run, results: Path, seen: dict[str, Path]) -> Planned:
    """Tell what is there of a run.

    Args:
        run: The run.
        results: Folder of the results.
        seen: Records by `_setting_of` their run, for runs on frames that are yet to be made.
    """
    path = results / run.file
    if not path.exists():
        path = seen.get(_setting_of(run.config.model_dump(mode="json")), path)
    if not path.exists():
        return Planned(run, "missing")
    try:
        record = read_record(path)
    except OldRecordError as error:
        return Planned(run, "outdated", str(error))
    except (ValueError, OSError) as error:
        return Planned(run, "damaged", str(error))
    newest = run.config.version
    if record.version < newest:
        return Planned(run, "outdated", f"{path} is of version {record.version}, not {newest}")
    if record.version > newest:
        reason = f"{path} is of version {record.version}, which this code ({newest}) does not know"
        return Planned(run, "damaged", reason)
    if run.weights and not weights_of(results, record.key).exists():
        return Planned(run, "outdated", f"{path} is there, but not the trained net")
    return Planned(run, "there")


def weights_of(results: Path, key: str) -> Path:
    """Return where a run's trained net is kept."""
    return results / "weights" / f"{key}.pt"


def _without_data(results: Path) -> dict[str, Path]:
    """Return the depth records by their settings, whatever frames they were made on."""
    found = {}
    for path in (results / "records").glob("depth-*.json"):
        try:
            found[_setting_of(json.loads(path.read_text(encoding="utf-8"))["config"])] = path
        except (OSError, ValueError, KeyError, TypeError):
            continue  # `make_plan` looks again, and by name, once the frames are there
    return found


def _setting_of(config: dict[str, Any]) -> str:
    return json.dumps({**config, "data": None}, sort_keys=True)


def write_plan(
    plan: Plan, costs: dict[str, dict[str, float]], only: set[str] | None = None
) -> Path:
    """Write the files that the workflow's jobs work by: each run's configuration, and the plan.

    Args:
        plan: The plan.
        costs: What each run costs, by its file, as `costs.costs_of` gives it.
        only: Files of the runs to make, and nothing else, notebooks neither; None means all.

    Returns:
        The plan's path.
    """
    for run, *_ in plan.runs:
        path = plan.results / "runs" / f"{run.name}.json"
        text = run.config.model_dump_json(indent=1)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text)
    path = plan.results / "plan.json"
    content = {
        "profile": plan.profile,
        "results": str(plan.results),
        "parameters": plan.parameters if only is None else {},
        "data": plan.parameters.get(DEPTH),
        "runs": {
            run.file: {
                "notebook": run.notebook,
                "label": run.label,
                "state": state,
                "weights": run.weights,
                "frames": EXPERIMENTS[run.config.experiment].frames,
                "alone": EXPERIMENTS[run.config.experiment].alone,
                **costs.get(run.file, {}),
            }
            for run, state, _ in plan.runs
            if only is None or run.file in only
        },
    }
    write_whole(path, json.dumps(content, indent=1))
    return path


def set_aside(plan: Plan) -> list[str]:
    """Rename damaged records, so that they are made again, and say so in a sentence each."""
    said = []
    for run, state, reason in plan.runs:
        path = plan.results / run.file
        if state == "damaged" and path.exists():
            kept = path.with_name(f"{path.name}.damaged")
            path.replace(kept)
            said.append(f"{reason.split(': delete it')[0]}: kept as {kept.name}, and made again.")
    return said
