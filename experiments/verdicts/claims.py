"""The ledger of the paper's claims, and the verdict that run records allow on each.

A verdict compares a confidence interval with a margin that was fixed before the runs. It never
says more than the number of seeds and the profile of the runs support.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from experiments.common.stats import interval
from experiments.verdicts.evidence import Query, Text, gather

Profile = Literal["quick", "standard", "paper"]
Verdict = Literal["reproduced", "partially", "not reproduced", "inconclusive", "not run"]
PROFILES: tuple[Profile, ...] = ("quick", "standard", "paper")
NUMBERS = r"\d(\.\d)?( and \d(\.\d)?)*"
PLACE = rf"(Sections? {NUMBERS}(, (equations?|Figure) {NUMBERS})*|beyond the paper)"


class Claim(BaseModel):
    """One checkable claim of the paper."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    place: Text
    claim: Text  # in our words
    paper: Text | None = None  # the figure that the paper gives, if any
    statistic: Literal["paired difference", "mean", "largest"] | None = None
    direction: Literal["greater", "smaller", "equal"] = "greater"
    threshold: float = 0.0
    margin: Annotated[float, Field(ge=0)] = 0.0
    seeds: Annotated[int, Field(ge=1)] = 1  # the least number that a verdict needs
    profile: Profile = "standard"  # the smallest that a verdict needs
    query: Query | None = None
    note: Text | None = None
    changed: Text | None = None  # why a number above is not the one that was first written

    @field_validator("place")
    @classmethod
    def _is_known(cls, place: str) -> str:
        if not re.fullmatch(PLACE, place):
            raise ValueError(
                f"{place!r} is no place such as 'Section 4, Figure 6' or 'beyond the paper'"
            )
        return place

    @model_validator(mode="after")
    def _statistic_goes_with_query(self) -> "Claim":
        if (self.statistic is None) != (self.query is None):
            raise ValueError(f"{self.id}: give both a statistic and a query, or neither.")
        paired = self.statistic == "paired difference"
        if self.query is not None and paired != (self.query.baseline is not None):
            raise ValueError(f"{self.id}: a paired difference, and only it, has a baseline.")
        if self.query is not None and self.query.than is not None and not paired:
            raise ValueError(f"{self.id}: only a paired difference can be larger `than` another.")
        return self


class Judgement(NamedTuple):
    """A claim's verdict with its evidence: estimate, 95 % interval, seeds and record keys."""

    verdict: Verdict
    reason: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    records: tuple[str, ...] = ()


class _Loader(yaml.SafeLoader):
    """Refuses an entry that says the same thing twice, of which YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [self.construct_object(name) for name, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice[0]} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def load_claims(path: Path | str) -> list[Claim]:
    """Read the ledger.

    Raises:
        ValueError: The file is not a list of claims, or two have the same id.
    """
    try:
        entries = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
        claims = TypeAdapter(list[Claim]).validate_python(entries)
    except (yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"{path} is not a list of claims: {_first(error)}") from error
    ids = [claim.id for claim in claims]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise ValueError(f"{path} has the id {', '.join(twice)} more than once: rename one.")
    return claims


def _first(error: yaml.YAMLError | ValidationError) -> str:
    """Return the first of what is wrong, in one line."""
    if isinstance(error, yaml.YAMLError):
        return " ".join(str(error).split())
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    position, *names = first["loc"]
    return ", ".join([f"entry {position + 1}", *map(str, names)]) + f": {message}"


def judge(claim: Claim, records: pd.DataFrame, profile: str) -> Judgement:
    """Give a verdict on a claim.

    Args:
        claim: The claim.
        records: From `evidence.read_evidence` or `records.read_records`; only the first tells the
            version of a record.
        profile: The profile that the records were made in; one of the user's own supports no
            more than the quick one.
    """
    if claim.query is None:
        return Judgement("not run", claim.note or "no experiment for it yet")
    try:
        values, keys, versions = gather(claim.query, records)
    except LookupError as nothing:
        return Judgement("not run", str(nothing))
    if len(versions) > 1:
        both = " and ".join(f"{v} (revision {(r or 'unknown')[:8]})" for v, r in versions.items())
        reason = f"records of versions {both}: make reproduce makes the older ones again"
        return Judgement("inconclusive", reason, seeds=len(values), records=keys)
    estimate, low, high = float(values.mean()), None, None
    if claim.statistic == "largest":
        estimate = float(np.abs(values).max())
        verdict = "reproduced" if estimate <= claim.margin else "not reproduced"
        reason = f"bound {claim.margin:g}"
    else:
        low, high = interval(values)
        verdict, reason = _compare(claim, low, high)
    rank = PROFILES.index(profile) if profile in PROFILES else 0
    if rank < PROFILES.index(claim.profile):
        verdict, reason = "inconclusive", f"an indication: the claim needs {claim.profile} runs"
    elif len(values) < claim.seeds:
        verdict, reason = "inconclusive", f"{len(values)} of at least {claim.seeds} seeds"
    return Judgement(verdict, reason, estimate, low, high, len(values), keys)


def _compare(claim: Claim, low: float | None, high: float | None) -> tuple[Verdict, str]:
    """Compare an interval with the claim's threshold and margin."""
    if low is None or high is None:
        return "inconclusive", "too few seeds for an interval"
    low, high = low - claim.threshold, high - claim.threshold
    if claim.direction == "equal":
        if -claim.margin <= low and high <= claim.margin:
            return "reproduced", "the interval lies within the margin"
        if low > claim.margin or high < -claim.margin:
            return "not reproduced", "the interval lies outside the margin"
        return "inconclusive", "the interval crosses the margin"
    if claim.direction == "smaller":
        low, high = -high, -low
    if low > claim.margin:
        return "reproduced", "the interval lies beyond the margin"
    if high < claim.margin:
        return "not reproduced", "the interval ends before the margin"
    if low > 0:
        return "partially", "the interval excludes zero but not the margin"
    return "inconclusive", "the interval crosses the margin"
