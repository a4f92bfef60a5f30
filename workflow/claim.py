"""The runs behind one claim, made again beside the others: what `make claim` adds."""

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.records import read_records
from experiments.verdicts.claims import Claim, Judgement, Query, judge, load_claims
from parameters import ProfileError
from plan import Plan, Planned


def find(name: str) -> Claim:
    """Return a claim of the ledger."""
    claims = {claim.id: claim for claim in load_claims(Path("claims.yaml"))}
    if name not in claims:
        raise ProfileError(f"There is no claim '{name}'; there are: {', '.join(claims)}.")
    return claims[name]


def answering(name: str, plan: Plan) -> list[Planned]:
    """Return those of a plan's runs that a claim asks for, with its grid and preconditions."""
    claim = find(name)
    cells = [claim.at(cell) for cell in claim.grid] if claim.grid else [claim]
    queries = [query for cell in cells for query in cell.queries()]
    asked = [side for query in queries for side in sides_of(query)]

    def answers(planned: Planned) -> bool:
        flat = pd.json_normalize(planned.run.config.model_dump(mode="json")).iloc[0].to_dict()
        return planned.run.folder == "records" and any(
            all(_equal(flat.get(key), value) for key, value in side.items()) for side in asked
        )

    found = [planned for planned in plan.runs if answers(planned)]
    if not found:
        raise ProfileError(
            f"The profile {plan.profile} makes no run for the claim '{name}'; another makes its "
            "records, or a stage of `python -m experiments.run`."
        )
    return found


def sides_of(query: Query) -> list[dict[str, Any]]:
    """Return what the runs of each side of a query have in their configurations."""
    sides = [(query.experiment, query.where)]
    if query.baseline is not None:
        sides.append((query.baseline_experiment or query.experiment, query.baseline))
    if query.than is not None:
        sides += [(experiment, where | query.than) for experiment, where in sides]
    return [
        {"experiment": experiment, **{k: v for k, v in where.items() if k != "metric"}}
        for experiment, where in sides
    ]


def _equal(value: Any, wanted: Any) -> bool:
    """Compare a configuration's entry with a query's; null in the query is an entry left open."""
    return value is None or value != value if wanted is None else value == wanted


def compare(name: str, again: Path, usual: Path, profile: str) -> str:
    """Judge a claim by the records made again and by the usual ones, a line each."""
    lines = []
    for label, folder in (("again", again), ("recorded", usual)):
        found = judge(find(name), read_records(folder / "records"), profile)
        lines.append(f"{label:>8}: {_told(found)} ({found.reason})")
        lines += [f"{'':>8}  {cell}: {_told(one)}" for cell, one in found.cells]
    return "\n".join(
        [*lines, f"The records are in {again / 'records'}; delete them to make them once more."]
    )


def _told(found: Judgement) -> str:
    numbers = [v for v in (found.estimate, found.low, found.high) if v is not None]
    ours = f"{numbers[0]:.3g} {[round(v, 4) for v in numbers[1:]]}, " if numbers else ""
    return f"{ours}{found.seeds} seeds, {found.verdict}"
