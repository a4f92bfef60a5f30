"""The ledger of the paper's claims, and the verdict that run records allow on each.

A verdict compares a confidence interval with a margin that was fixed before the runs. It never
says more than the number of seeds and the profile of the runs support, and nothing where a
requirement fails: where the setting could not have shown the claim. What a claim asks for and is
not there is told in one sentence that says which part of the question matched nothing.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from experiments.common.records import read_record, rows_of
from experiments.common.stats import bootstrap_interval, t_interval

Profile = Literal["quick", "standard", "paper"]
Verdict = Literal[
    "reproduced",
    "partially",
    "no difference",
    "opposite",
    "not reproduced",
    "inconclusive",
    "not tested here",
    "not run",
]
MEANING: dict[Verdict, str] = {
    "reproduced": "the whole interval lies beyond the margin",
    "partially": "there, but smaller than the margin, or in some settings only",
    "no difference": "the 90 % interval of the effect lies within the margin around nothing",
    "opposite": "the effect has the other sign",
    "not reproduced": "the claimed size is excluded",
    "inconclusive": "the interval allows more than one of these",
    "not tested here": "a requirement failed: the setting could not have shown the claim",
    "not run": "no records",
}
LEAST_SEEDS = 5  # for an interval; below, no verdict
PROFILES: tuple[Profile, ...] = ("quick", "standard", "paper")
NUMBERS = r"\d(\.\d)?( and \d(\.\d)?)*"
PLACE = rf"^(Sections? {NUMBERS}(, (equations?|Figure) {NUMBERS})*|beyond the paper)$"
Text = Annotated[str, Field(min_length=1)]
Where = dict[Text, bool | int | float | str | None]


class Query(BaseModel):
    """Which records answer a question, and with which of their numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    experiment: Text
    metric: Text
    where: Where  # configuration entries of the runs, nested ones as `norm.kind`
    baseline: Where | None = None  # of the runs that they are compared with, by seed
    baseline_experiment: Text | None = None  # where it is another
    than: Where | None = None  # replaced in both, for a second difference that is taken away


class Requirement(BaseModel):
    """What must hold before a claim can be judged: a bound on an end of a 95 % t interval."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    query: Query
    low: float | None = None  # the interval's low end is at least this
    high: float | None = None  # its high end is at most this

    @model_validator(mode="after")
    def _one_bound(self) -> "Requirement":
        if (self.low is None) == (self.high is None):
            raise ValueError("give one bound of a requirement, low or high.")
        return self


Precondition = Literal["scarce", "sees", "trained", "sensitive", "present"]


class Claim(BaseModel):
    """One checkable claim of the paper."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    place: Annotated[str, Field(pattern=PLACE)]
    claim: Text  # in our words
    paper: Text | None = None  # the figure that the paper gives, if any
    statistic: Literal["paired difference", "mean", "largest"] | None = None
    direction: Literal["greater", "smaller", "equal"] = "greater"
    threshold: float = 0.0
    margin: Annotated[float, Field(ge=0)] = 0.0
    seeds: Annotated[int, Field(ge=1)] = 1  # the least number that a verdict needs
    profile: Profile = "standard"  # the smallest that a verdict needs
    kind: Literal["finding", "identity", "cost"] = "finding"  # the others are not counted with it
    query: Query | None = None
    grid: list[Where] | None = None  # settings that the claim does not choose among, in both sides
    requires: dict[Precondition, Requirement] = {}
    note: Text | None = None
    caveat: Text | None = None  # shown with the verdict: a late margin, an unequal search
    changed: Text | None = None  # why a number above is not the one that was first written

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


class Evidence(NamedTuple):
    """The records of a folder that can be used, and one sentence on each that cannot."""

    table: pd.DataFrame
    damaged: dict[Path, str]


def read_evidence(folder: Path | str) -> Evidence:
    """Read the records of a folder, one row a seed, in the order of their names.

    The table has the columns of `records.read_records`, the `version` and the origin of each record
    (`revision`, `cpu`, `gpu`, `when`) and the name of its `file`; metrics come last, behind `seed`.
    A file that is damaged or was renamed is reported and left out. A folder that does not exist has
    no records.
    """
    rows: list[dict[str, Any]] = []
    metrics: dict[str, None] = {}  # an ordered set
    damaged = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            record = read_record(path)
        except OSError as error:
            damaged[path] = f"{path} cannot be read ({error.strerror}): make it readable."
        except ValueError as error:
            damaged[path] = str(error)
        else:
            origin = {"version": record.version, "file": path.name}
            origin |= record.made.model_dump(include={"revision", "cpu", "gpu", "when"})
            rows += [origin | row for row in rows_of(record)]
            metrics |= dict.fromkeys(record.metrics)
    table = pd.DataFrame(rows)
    settings = [name for name in table if name not in {*metrics, "seed"}]
    return Evidence(table[[*settings, "seed", *metrics]] if rows else table, damaged)


def find(table: pd.DataFrame, experiment: str, /, **where: Any) -> pd.DataFrame:
    """Return the rows of an experiment's runs with the given settings, without empty columns.

    `table` is from `read_evidence` or `records.read_records`; `where` are configuration entries,
    nested ones as `**{"norm.kind": "ubn"}`, and None is one that the configuration leaves open.

    Raises:
        LookupError: There is no such run; one sentence says why.

    Example:
        >>> import pandas as pd
        >>> runs = {"experiment": "toy", "norm.kind": ["bn", "ubn"], "key": ["a", "b"], "seed": 0}
        >>> table = pd.DataFrame(runs).assign(score=[0.5, 0.75])
        >>> find(table, "toy", **{"norm.kind": "ubn"})["score"].tolist()
        [0.75]
    """
    if table.empty:
        raise LookupError("there are no records")
    runs = table[table["experiment"] == experiment]
    if runs.empty:
        there = ", ".join(sorted(table["experiment"].unique()))
        raise LookupError(f"no record of experiment {experiment}; there are: {there}")
    total = f"{runs['key'].nunique()} records of {experiment}"
    matches = {}
    for name, value in where.items():
        if name not in table.columns:
            raise LookupError(f"no record has {name}")
        matches[name] = runs[name].isna() if value is None else runs[name] == value
        if not matches[name].any():
            there = ", ".join(sorted(runs[name].dropna().map(_yaml).unique())[:8])
            raise LookupError(
                f"no run with {name} = {_yaml(value)} among {total}, where it is {there or 'null'}"
            )
    chosen, said = np.ones(len(runs), bool), []
    for name, match in matches.items():
        chosen &= match.to_numpy(bool)
        if not chosen.any():
            raise LookupError(
                f"no run with {name} = {_yaml(where[name])} among those of {total} that have "
                + " and ".join(said)
            )
        said.append(f"{name} = {_yaml(where[name])}")
    return runs[chosen].dropna(axis="columns", how="all").reset_index(drop=True)


class Found(NamedTuple):
    """What a query finds: one value a seed, the records' keys, and revisions by version."""

    values: np.ndarray
    keys: tuple[str, ...]
    versions: dict[int, str | None]


def gather(query: Query, table: pd.DataFrame) -> Found:
    """Return what a query finds: values, or differences paired by seed.

    Raises:
        LookupError: It finds nothing; one sentence says why.
        ValueError: There are several runs of one seed.
    """
    sides = [(1, query.experiment, query.where)]
    if query.baseline is not None:
        sides.append((-1, query.baseline_experiment or query.experiment, query.baseline))
    if query.than is not None:
        sides += [(-sign, name, where | query.than) for sign, name, where in sides]
    runs = [_with_metric(table, name, query.metric, where) for _, name, where in sides]
    shared = sorted(set.intersection(*(set(part["seed"]) for part in runs)))
    if not shared:
        seeds = " against ".join(_span(part["seed"]) for part in runs)
        raise LookupError(f"no seed that all sides share: {seeds}")
    runs = [part[part["seed"].isin(shared)] for part in runs]
    if any(part["seed"].duplicated().any() for part in runs):
        raise ValueError(
            f"The records hold several runs of one seed for {query.metric}, made with different "
            "parameters: use a fresh results folder, or name more of the configuration under "
            "`where` in the ledger."
        )
    by_seed = (part.set_index("seed")[query.metric].loc[shared].to_numpy(float) for part in runs)
    values = sum(sign * part for (sign, *_), part in zip(sides, by_seed, strict=True))
    rows = pd.concat([part.reindex(columns=["key", "version", "revision"]) for part in runs])
    rows = rows.astype(object).where(rows.notna(), None).drop_duplicates("key")
    versions = rows.dropna(subset="version").drop_duplicates("version")
    return Found(
        np.asarray(values),
        tuple(rows["key"]),  # one record may hold many seeds
        dict(zip(versions["version"], versions["revision"], strict=True)),
    )


def _with_metric(table: pd.DataFrame, experiment: str, metric: str, where: Where) -> pd.DataFrame:
    """Return the runs that have a value."""
    runs = find(table, experiment, **where)
    if metric in runs.columns:
        return runs[runs[metric].notna()]
    of_all = table[table["experiment"] == experiment].dropna(axis="columns", how="all")
    if metric in of_all.columns:
        keys = ", ".join(runs["key"].unique()[:3])
        raise LookupError(f"no value of {metric} in the records of such runs ({keys})")
    behind = list(of_all.columns)[list(of_all.columns).index("seed") + 1 :]
    there = ", ".join(name for name in behind if pd.api.types.is_numeric_dtype(of_all[name]))
    raise LookupError(f"no record of {experiment} has the metric {metric!r}; there are: {there}")


def _span(seeds: pd.Series) -> str:
    return f"{seeds.min()} to {seeds.max()}" if len(seeds) > 1 else f"{seeds.min()}"


def _yaml(value: Any) -> str:
    """Write a value as the ledger has it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value).removesuffix(".0")  # a whole number in a column that has gaps


class Judgement(NamedTuple):
    """A claim's verdict with its evidence: estimate, 95 % interval, seeds and record keys."""

    verdict: Verdict
    reason: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    records: tuple[str, ...] = ()


def judge(claim: Claim, records: pd.DataFrame, profile: str) -> Judgement:
    """Give a verdict on a claim by the records of a profile.

    `records` are from `read_evidence` or `records.read_records`; only the first tells the version
    of a record. A profile of the user's own supports no more than the quick one.
    """
    if claim.query is None:
        return Judgement("not run", claim.note or "no experiment for it yet")
    if claim.grid is None:
        return _judge_cell(claim, claim.query, {}, records, profile)
    cells = [_judge_cell(claim, claim.query, cell, records, profile) for cell in claim.grid]
    return _together(claim.grid, cells)


def _judge_cell(
    claim: Claim, query: Query, cell: Where, records: pd.DataFrame, profile: str
) -> Judgement:
    """Judge a claim in one setting of its grid; {} for a claim that has none."""
    try:
        values, keys, versions = gather(_within(query, cell), records)
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
        reason, least = f"bound {claim.margin:g}", claim.seeds
    else:
        low, high = _interval(values)
        verdict, reason = _compare(claim, values)
        least = max(claim.seeds, LEAST_SEEDS)
    rank = PROFILES.index(profile) if profile in PROFILES else 0
    if rank < PROFILES.index(claim.profile):
        verdict, reason = "inconclusive", f"an indication: the claim needs {claim.profile} runs"
    elif len(values) < least:
        verdict, reason = "inconclusive", f"{len(values)} of at least {least} seeds"
    elif failure := _failure(claim, cell, records):
        verdict, reason = "not tested here", failure
    return Judgement(verdict, reason, estimate, low, high, len(values), keys)


def _within(query: Query, cell: Where) -> Query:
    """Return a query in a setting of a grid."""
    baseline = None if query.baseline is None else query.baseline | cell
    return query.model_copy(update={"where": query.where | cell, "baseline": baseline})


def _together(grid: list[Where], cells: list[Judgement]) -> Judgement:
    """Return the verdict on a claim from those on the settings of its grid.

    The estimate and interval are those of the setting in the middle of the verdict's reason: the
    one with the largest estimate.
    """
    said = [
        f"{', '.join(f'{_short(n)} {_yaml(v)}' for n, v in where.items())}: {cell.verdict}"
        + (
            ""
            if cell.estimate is None
            else f" {cell.estimate:+.3f} [{cell.low:.3f}, {cell.high:.3f}]"
        )
        for where, cell in zip(grid, cells, strict=True)
    ]
    verdicts = [cell.verdict for cell in cells]
    judged = [verdict for verdict in verdicts if verdict not in ("not run", "not tested here")]
    if len(set(verdicts)) == 1:
        verdict = verdicts[0]
    elif "not run" in verdicts or ("inconclusive" in verdicts and "reproduced" not in verdicts):
        verdict = "inconclusive"
    elif len(set(judged)) == 1:
        verdict = judged[0]
    elif "reproduced" in judged or "partially" in judged:
        verdict = "partially"
    elif "opposite" in judged:
        verdict = "inconclusive"
    else:
        verdict = "not reproduced"
    records = tuple(dict.fromkeys(key for cell in cells for key in cell.records))
    seeds = min(cell.seeds for cell in cells)
    return Judgement(verdict, "; ".join(said), seeds=seeds, records=records)


def _short(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")


def _failure(claim: Claim, cell: Where, records: pd.DataFrame) -> str | None:
    """Say which requirement of a claim does not hold; None if all do."""
    for name, requirement in claim.requires.items():
        try:
            values = gather(_within(requirement.query, cell), records).values
        except LookupError as nothing:
            return f"{name}: {nothing}"
        low, high = t_interval(values)
        wanted = requirement.low if requirement.low is not None else requirement.high
        side = "at least" if requirement.low is not None else "at most"
        if low is None or high is None:
            return f"{name}: {len(values)} seeds are too few for an interval"
        if low < wanted if requirement.low is not None else high > wanted:
            numbers = f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"
            return f"{name}: {numbers}, and {side} {wanted:g} is required"
    return None


def _interval(values: np.ndarray, seed: int = 0) -> tuple[float | None, float | None]:
    """Return the 95 % interval: by t below 20 values, where the bootstrap's is too narrow."""
    return t_interval(values) if len(values) < 20 else bootstrap_interval(values, seed)


def _compare(claim: Claim, values: np.ndarray) -> tuple[Verdict, str]:
    """Return the verdict that the intervals of all of 20 bootstrap seeds share."""
    within = t_interval(values, 0.90)
    seeds = range(20 if len(values) >= 20 else 1)
    found = [_compare_interval(claim, *_interval(values, seed), within) for seed in seeds]
    if len({verdict for verdict, _ in found}) > 1:
        return "inconclusive", "the verdict depends on the bootstrap's seed"
    return found[0]


def _compare_interval(
    claim: Claim,
    low: float | None,
    high: float | None,
    within: tuple[float | None, float | None],  # the 90 % interval, for equivalence
) -> tuple[Verdict, str]:
    """Compare an interval with the claim's threshold and margin."""
    if low is None or high is None:
        return "inconclusive", "too few seeds for an interval"
    # Of a difference nothing is 0; of a mean it is the threshold, such as a ratio of 1.
    nothing = 0.0 if claim.statistic == "paired difference" else claim.threshold
    equal = max(abs(end - nothing) for end in within) <= claim.margin
    if claim.direction == "equal":
        low, high = low - claim.threshold, high - claim.threshold
        if -claim.margin <= low and high <= claim.margin:
            return "reproduced", "the interval lies within the margin"
        if low > claim.margin or high < -claim.margin:
            return "not reproduced", "the interval lies outside the margin"
        return "inconclusive", "the interval crosses the margin"
    sign = 1 if claim.direction == "greater" else -1
    effect = sorted((sign * (low - nothing), sign * (high - nothing)))
    low, high = (end - sign * (claim.threshold - nothing) for end in effect)
    beside = ""
    if claim.threshold != nothing:
        beside = "; nothing is excluded" if effect[0] > 0 else "; nothing is not excluded"
    if low > claim.margin:
        return "reproduced", "the interval lies beyond the margin"
    if low > 0:
        smaller = high < claim.margin
        return "partially", "smaller than the margin" if smaller else "the margin is not excluded"
    if effect[1] < 0:
        return "opposite", "and smaller than the margin" if equal else "the interval excludes zero"
    if equal:
        return "no difference", "the 90 % interval lies within the margin"
    if high < claim.margin:
        return "not reproduced", "the interval ends before the margin" + beside
    return "inconclusive", "the interval crosses the margin" + beside
