"""Find the runs behind one claim, and the command that makes them again."""

import contextlib
import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.common.records import Config, flat_entries
from experiments.depth.study import DOMAINS, STAGE_PLANS
from experiments.verdicts.claims import (
    PROFILES,
    Claim,
    Judgement,
    Query,
    judge,
    load_claims,
    rank,
    read_evidence,
)
from parameters import ProfileError, run_parameters
from plan import SECTIONS, Plan, Planned

STAGES = ("claims", "arms", "figure6", "map")  # of the depth study, that make claims' records
OUTCOMES = ("metric", "labeled_frames")  # what a query may name and no configuration has


def find(name: str) -> Claim:
    """Return a claim of the ledger."""
    claims = {claim.id: claim for claim in load_claims(Path("claims.yaml"))}
    if name not in claims:
        raise ProfileError(f"There is no claim '{name}'; there are: {', '.join(claims)}.")
    return claims[name]


def answering(name: str, plan: Plan) -> list[Planned]:
    """Return those of a plan's runs that a claim asks for, with its grid and preconditions."""
    claim = find(name)
    asked = [side for query in queries_of(claim) for side in sides_of(query)]
    made = ((planned, _flat(planned.run.config)) for planned in plan.runs)
    found = [
        planned
        for planned, flat in made
        if planned.run.folder == "records" and any(_answers(flat, side) for side in asked)
    ]
    if not found:
        told = rerun(claim, [PROFILES[-1]], Path.cwd()) or "no command here makes them"
        raise ProfileError(
            f"The profile {plan.profile} makes no run for the claim '{name}'; its records: {told}"
        )
    return found


def rerun(claim: Claim, profiles: Iterable[str], root: Path) -> str:
    """Return the command that makes all runs of a claim's own question; "" where none does.

    The stages of a study, which have its seeds, or else the first of the profiles that makes them
    all and is large enough.
    """
    sides = [side for query in queries_of(claim, own=True) for side in sides_of(query)]
    domain = sides[0].get("domain", "")
    stages = []
    if claim.query.experiment == "depth" and DOMAINS[domain].load:
        for name in (name for name, d in DOMAINS.items() if domain in (name, d.recorded_as)):
            stages = [stage and f"depth.{stage} --domain {name}" for stage in _stages(name, sides)]
            if all(stages):
                break
    for profile in () if stages else profiles:
        made = _made_by(profile, root) if rank(profile) >= rank(claim.profile) else ()
        if all(any(_answers(flat, side) for flat in made) for side in sides):
            kitti = " KITTI_ROOT=FOLDER" if sides[0].get("domain") == "kitti" else ""
            return f"make claim CLAIM={claim.id} PROFILE={profile}{kitti}"
    if claim.query.experiment == "ablation":
        stages = [f"ablation.{domain}"]
    more = "" if domain in ("drives", "spiral", "digits") else " --rgbd-root FOLDER"
    more += " --results results/again"  # where records are, none is made again
    commands = [f"python -m experiments.run {stage}{more}" for stage in stages]
    return " && ".join(commands) if all(stages) else ""


def _stages(domain: str, sides: list[dict[str, Any]]) -> list[str]:
    """Return the stages that make each side's runs; "" is one that none makes."""
    found: dict[str, None] = {}
    for side in sides:
        # Where a processor has no bfloat16, the stage says so.
        side = {key: value for key, value in side.items() if key != "engine.precision"}
        makes = (s for s in STAGES if any(_answers(flat, side) for flat in _made_in(s, domain)))
        found[next(makes, "")] = None
    return list(found)


@functools.cache
def _made_by(profile: str, root: Path) -> tuple[dict[str, Any], ...]:
    """Return the configurations of a profile's runs, on frames without a fingerprint."""
    try:
        parameters = run_parameters(profile, root, root / "results" / profile)
    except ProfileError:
        return ()
    made = []
    for name, values in parameters.items():
        with contextlib.suppress(OSError):  # the ablation's rest on tuning records
            made += SECTIONS[name].notebook_runs(values, "") if name in SECTIONS else []
    return tuple(_flat(run.config) for run in made if run.folder == "records")


@functools.cache
def _made_in(stage: str, domain: str) -> tuple[dict[str, Any], ...]:
    return tuple(map(_flat, STAGE_PLANS[stage](domain, "")))


def _flat(config: Config) -> dict[str, Any]:
    return dict(flat_entries(config.model_dump(mode="json")))


def _answers(flat: dict[str, Any], side: dict[str, Any]) -> bool:
    """Say whether a run is one of a side of a query."""
    return all(_equal(flat.get(key), value) for key, value in side.items())


def queries_of(claim: Claim, own: bool = False) -> list[Query]:
    """Return a claim's queries in all cells of its grid, those of its preconditions too or not."""
    cells = [claim.at(cell) for cell in claim.grid] if claim.grid else [claim]
    return [query for cell in cells for query in ([cell.query] if own else cell.queries())]


def sides_of(query: Query) -> list[dict[str, Any]]:
    """Return what the runs of each side of a query have in their configurations."""
    return [
        {"experiment": experiment, **{k: v for k, v in where.items() if k not in OUTCOMES}}
        for _, experiment, where in query.sides()
    ]


def _equal(value: Any, wanted: Any) -> bool:
    """Compare a configuration's entry with a query's; null in the query is an entry left open."""
    return value is None or value != value if wanted is None else value == wanted


def compare(name: str, again: Path, usual: Path, profile: str) -> str:
    """Judge a claim by the records made again and by the usual ones, a line each."""
    lines = []
    for label, folder in (("again", again), ("recorded", usual)):
        table, damaged = read_evidence(folder / "records")
        found = judge(find(name), table, profile)
        lines.append(f"{label:>8}: {_told(found)} ({found.reason})")
        lines += [f"{'':>8}  {cell}: {_told(one)}" for cell, one in found.cells]
        lines += [f"{'':>8}  left out: {why}" for why in damaged.values()]
    return "\n".join(
        [*lines, f"The records are in {again / 'records'}; delete them to make them once more."]
    )


def _told(found: Judgement) -> str:
    numbers = [v for v in (found.estimate, found.low, found.high) if not math.isnan(v)]
    ours = f"{numbers[0]:.3g} {[round(v, 4) for v in numbers[1:]]}, " if numbers else ""
    return f"{ours}{found.seeds} seeds, {found.verdict}"
