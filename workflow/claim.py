"""The runs behind one claim, made again beside the others: what `make claim` adds."""

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.records import read_records
from experiments.verdicts.claims import Claim, judge, load_claims
from parameters import ProfileError
from plan import Plan, Planned


def find(name: str) -> Claim:
    """Return a claim of the ledger."""
    claims = {claim.id: claim for claim in load_claims(Path("claims.yaml"))}
    if name not in claims:
        raise ProfileError(f"There is no claim '{name}'; there are: {', '.join(claims)}.")
    return claims[name]


def answering(name: str, plan: Plan) -> list[Planned]:
    """Return those of a plan's runs that a claim's query asks for."""
    query = find(name).query
    sides = [side for side in (query.where, query.baseline) if side is not None] if query else []
    asked = [{"experiment": query.experiment, **side} for side in sides]

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


def _equal(value: Any, wanted: Any) -> bool:
    """Compare a configuration's entry with a query's; null in the query is an entry left open."""
    return value is None or value != value if wanted is None else value == wanted


def compare(name: str, again: Path, usual: Path, profile: str) -> str:
    """Judge a claim by the records made again and by the usual ones, a line each."""
    lines = []
    for label, folder in (("again", again), ("recorded", usual)):
        found = judge(find(name), read_records(folder / "records"), profile)
        numbers = [v for v in (found.estimate, found.low, found.high) if v is not None]
        ours = f"{numbers[0]:.3g} {[round(v, 4) for v in numbers[1:]]}, " if numbers else ""
        lines.append(f"{label:>8}: {ours}{found.seeds} seeds, {found.verdict} ({found.reason})")
    return "\n".join(
        [*lines, f"The records are in {again / 'records'}; delete them to make them once more."]
    )
