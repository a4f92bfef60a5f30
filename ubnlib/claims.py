"""The ledger of the paper's claims, and the verdict that run records allow on each.

A verdict compares a confidence interval with a margin that was fixed before the runs. It never
says more than the number of seeds and the profile of the runs support.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator
from scipy.stats import bootstrap

Profile = Literal["quick", "standard", "paper"]
Verdict = Literal["reproduced", "partially", "not reproduced", "inconclusive", "not run"]
PROFILES: tuple[Profile, ...] = ("quick", "standard", "paper")


class Query(BaseModel):
    """Which records are a claim's evidence."""

    model_config = ConfigDict(extra="forbid")

    experiment: str
    metric: str
    where: dict[str, Any]  # configuration entries of the runs, nested ones as `norm.kind`
    baseline: dict[str, Any] | None = None  # of the runs that they are compared with, by seed


class Claim(BaseModel):
    """One checkable claim of the paper."""

    model_config = ConfigDict(extra="forbid")

    id: str
    place: str
    claim: str  # in our words
    paper: str | None = None  # the figure that the paper gives, if any
    statistic: Literal["paired difference", "mean", "largest"] | None = None
    direction: Literal["greater", "smaller", "equal"] = "greater"
    threshold: float = 0.0
    margin: float = 0.0
    seeds: int = 1  # the least number that a verdict needs
    profile: Profile = "standard"  # the smallest that a verdict needs
    query: Query | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _statistic_goes_with_query(self) -> "Claim":
        if (self.statistic is None) != (self.query is None):
            raise ValueError(f"{self.id}: give both a statistic and a query, or neither.")
        paired = self.statistic == "paired difference"
        if self.query is not None and paired != (self.query.baseline is not None):
            raise ValueError(f"{self.id}: a paired difference, and only it, has a baseline.")
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


def load_claims(path: Path | str) -> list[Claim]:
    """Read the ledger.

    Raises:
        ValueError: The file is not a list of claims, or two have the same id.
    """
    try:
        claims = TypeAdapter(list[Claim]).validate_python(yaml.safe_load(Path(path).read_text()))
    except (yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"{path} is not a list of claims: {error}") from error
    ids = [claim.id for claim in claims]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise ValueError(f"{path} has the id {', '.join(twice)} more than once: rename one.")
    return claims


def judge(claim: Claim, records: pd.DataFrame, profile: str) -> Judgement:
    """Give a verdict on a claim.

    Args:
        claim: The claim.
        records: As `ubnlib.records.read_records` returns them.
        profile: The profile that the records were made in; one of the user's own supports no
            more than the quick one.
    """
    rank = PROFILES.index(profile) if profile in PROFILES else 0
    if claim.query is None:
        return Judgement("not run", claim.note or "no experiment for it yet")
    values, keys = _evidence(claim.query, records)
    keys = tuple(dict.fromkeys(keys))  # one record may hold many seeds
    if len(values) == 0:
        return Judgement("not run", "no record of such a run")
    if claim.statistic == "largest":
        worst = float(np.abs(values).max())
        verdict = "reproduced" if worst <= claim.margin else "not reproduced"
        return Judgement(verdict, f"bound {claim.margin:g}", worst, None, None, len(values), keys)
    estimate, (low, high) = float(values.mean()), interval(values)
    verdict, reason = _compare(claim, low, high)
    if rank < PROFILES.index(claim.profile):
        verdict, reason = "inconclusive", f"an indication: the claim needs {claim.profile} runs"
    elif len(values) < claim.seeds:
        verdict, reason = "inconclusive", f"{len(values)} of at least {claim.seeds} seeds"
    return Judgement(verdict, reason, estimate, low, high, len(values), keys)


def interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the 95 % bootstrap interval (BCa) of the mean; none below three values."""
    if len(values) < 3:
        return None, None
    if np.ptp(values) < 1e-12:  # all the same, but for rounding
        return float(values[0]), float(values[0])
    # Sorted, so that the interval depends on the values and not on the order of the seeds.
    result = bootstrap((np.sort(values),), np.mean, rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


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


def _evidence(query: Query, records: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Return the values that a query finds, one a seed, and the keys of their records."""
    runs = _select(records, query.experiment, query.where, query.metric)
    if query.baseline is None:
        return runs[query.metric].to_numpy(float), list(runs["key"])
    others = _select(records, query.experiment, query.baseline, query.metric)
    both = runs.merge(others, on="seed", suffixes=("", "_baseline"))
    if both["seed"].duplicated().any():
        raise ValueError(
            f"The records hold several runs of one seed for {query.metric}, made with different "
            "parameters: use a fresh results folder, or name more of the configuration under "
            "`where` in the ledger."
        )
    difference = both[query.metric] - both[f"{query.metric}_baseline"]
    return difference.to_numpy(float), [*both["key"], *both["key_baseline"]]


def _select(
    records: pd.DataFrame, experiment: str, where: dict[str, Any], metric: str
) -> pd.DataFrame:
    columns = ["seed", metric, "key"]
    wanted = {"experiment": experiment} | where
    if records.empty or not {*wanted, *columns} <= set(records.columns):
        return pd.DataFrame(columns=columns)
    # An entry that is null in the ledger is one that the configuration leaves open.
    matches = [
        records[name].isna() if value is None else records[name] == value
        for name, value in wanted.items()
    ]
    chosen = np.logical_and.reduce(matches)
    return records.loc[chosen & records[metric].notna(), columns]
