"""The ledger of the paper's claims, and the verdict that run records allow on each.

`rule` says which verdict numbers allow; a verdict never says more than the number of seeds, the
profile of the runs and the claim's preconditions support. What a claim asks for and is not there is
told in one sentence that says which part of the question matched nothing.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from experiments.common.files import NothingTwice, first_error
from experiments.common.records import read_record, rows_of
from experiments.common.stats import t_interval
from experiments.verdicts.rule import LEAST, Direction, Question, Verdict, combine, decide

Profile = Literal["quick", "standard", "paper"]
PROFILES: tuple[Profile, ...] = ("quick", "standard", "paper")
NUMBERS = r"\d(\.\d)?( and \d(\.\d)?)*"
SECTION = rf"(Abstract and )?Sections? {NUMBERS}(, (equations?|Figure) {NUMBERS})*"
PLACE = rf"^({SECTION}|beyond the paper)$"
Text = Annotated[str, Field(min_length=1)]
Where = dict[Text, bool | int | float | str | None]


class Query(BaseModel):
    """Which records answer a question, and with which of their numbers.

    A side that names a `metric` among its entries has that one instead.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    experiment: Text
    metric: Text
    where: Where  # configuration entries of the runs, nested ones as `norm.kind`
    baseline: Where | None = None  # of the runs that they are compared with, by seed
    baseline_experiment: Text | None = None  # where it is another
    than: Where | None = None  # replaced in both, for a second difference that is taken away

    def sides(self) -> list[tuple[int, str, Where]]:
        """Return the sign, experiment and configuration entries of each side of the difference."""
        sides = [(1, self.experiment, self.where)]
        if self.baseline is not None:
            sides.append((-1, self.baseline_experiment or self.experiment, self.baseline))
        if self.than is not None:
            sides += [(-sign, name, where | self.than) for sign, name, where in sides]
        return sides


Precondition = Literal["scarce", "sees", "trained", "sensitive", "present"]


class Requirement(BaseModel):
    """What must be so, or a setting cannot show the claim: a bound that a 95 % t interval keeps.

    `scarce`: labels are; `sees`: the net does better than one blind to its input; `trained`: its
    curve is at rest; `sensitive`: a positive control is seen; `present`: what shall be
    repaired is there.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    statistic: Literal["paired difference", "mean"]
    direction: Literal["greater", "smaller"]
    threshold: float  # the bound
    query: Query

    @model_validator(mode="after")
    def _statistic_goes_with_query(self) -> "Requirement":
        if (self.statistic == "paired difference") != (self.query.baseline is not None):
            raise ValueError("a paired difference, and only it, has a baseline.")
        return self


class Claim(BaseModel):
    """One checkable claim of the paper, an identity of our own code, or a cost."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    kind: Literal["finding", "identity", "cost"] = "finding"  # listed apart, counted apart
    place: Annotated[str, Field(pattern=PLACE)]
    claim: Text  # in our words
    paper: Text | None = None  # the figure that the paper gives, if any
    statistic: Literal["paired difference", "mean", "largest"]
    direction: Direction = "greater"
    threshold: float = 0.0
    margin: Annotated[float, Field(ge=0)] = 0.0
    seeds: Annotated[int, Field(ge=1)] = 1  # the least number that a verdict needs
    profile: Profile = "standard"  # the smallest that a verdict needs
    query: Query
    grid: Annotated[dict[Text, Where], Field(min_length=2)] | None = None  # what cells replace
    requires: dict[Precondition, Requirement] = {}
    caveat: Text | None = None  # a margin set after trials, unequal budgets: shown with the verdict
    note: Text | None = None
    changed: Text | None = None  # why a number above is not the one that was first written

    @model_validator(mode="after")
    def _statistic_goes_with_query(self) -> "Claim":
        paired = self.statistic == "paired difference"
        if paired != (self.query.baseline is not None):
            raise ValueError(f"{self.id}: a paired difference, and only it, has a baseline.")
        if self.query.than is not None and not paired:
            raise ValueError(f"{self.id}: only a paired difference can be larger `than` another.")
        if (self.grid or self.requires) and self.statistic == "largest":
            raise ValueError(f"{self.id}: grid and preconditions are for differences and means.")
        return self

    def queries(self) -> list[Query]:
        """Return the claim's own query and those of its preconditions."""
        return [self.query, *(needed.query for needed in self.requires.values())]

    def at(self, cell: str) -> "Claim":
        """Return the claim in one cell of its grid, with its preconditions there."""

        def there(query: Query) -> Query:
            baseline = None if query.baseline is None else query.baseline | self.grid[cell]
            return query.model_copy(
                update={"where": query.where | self.grid[cell], "baseline": baseline}
            )

        needed = {
            name: one.model_copy(update={"query": there(one.query)})
            for name, one in self.requires.items()
        }
        replaced = {"grid": None, "query": there(self.query), "requires": needed}
        return self.model_copy(update=replaced)


def rank(profile: str) -> int:
    """Return how large a profile is; one of the user's own is as the smallest."""
    return PROFILES.index(profile) if profile in PROFILES else 0


def load_claims(path: Path | str) -> list[Claim]:
    """Read the ledger.

    Raises:
        ValueError: The file is not a list of claims, or two have the same id.
    """
    try:
        entries = yaml.load(Path(path).read_text(encoding="utf-8"), NothingTwice)
        claims = TypeAdapter(list[Claim]).validate_python(entries)
    except (yaml.YAMLError, ValidationError) as error:
        told = first_error(error, ", ", _entry).replace("Value error, ", "")
        raise ValueError(f"{path} is not a list of claims: {told}") from error
    ids = [claim.id for claim in claims]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise ValueError(f"{path} has the id {', '.join(twice)} more than once: rename one.")
    return claims


def _entry(part: int | str) -> str:
    return f"entry {part + 1}" if isinstance(part, int) else part


class Evidence(NamedTuple):
    """The records of a folder that can be used, and one sentence on each that cannot."""

    table: pd.DataFrame
    damaged: dict[Path, str]

    def complete(self) -> pd.DataFrame:
        """Return the table where no record may be left out; ValueError if one is damaged."""
        if self.damaged:
            raise ValueError(" ".join(self.damaged.values()))
        return self.table


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
    """What a query finds: one value a seed, the records' keys, and revisions by version.

    Versions are compared within an experiment; those of two have nothing to do with each other.
    """

    values: np.ndarray
    keys: tuple[str, ...]
    versions: dict[int, str | None]


def gather(query: Query, table: pd.DataFrame) -> Found:
    """Return what a query finds: values, or differences paired by seed.

    Raises:
        LookupError: It finds nothing; one sentence says why.
        ValueError: There are several runs of one seed, or runs on different frames to compare.
    """
    sides = query.sides()
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
    for name, what in (("data", "frames"), ("engine.precision", "precision")):
        for seed, kinds in pd.concat(runs).reindex(columns=["seed", name]).groupby("seed")[name]:
            if kinds.nunique() > 1:
                raise ValueError(
                    f"The sides of seed {seed} for {query.metric} are of different {what}, "
                    f"{' and '.join(kinds.dropna().unique())}: use a fresh results folder, or name "
                    f"`{name}` under `where` in the ledger."
                )
    by_seed = (part.set_index("seed")["value"].loc[shared].to_numpy(float) for part in runs)
    values = sum(sign * part for (sign, *_), part in zip(sides, by_seed, strict=True))
    columns = ["key", "version", "revision", "experiment"]
    rows = pd.concat([part.reindex(columns=columns) for part in runs])
    rows = rows.astype(object).where(rows.notna(), None).drop_duplicates("key")
    versions: dict[int, str | None] = {}  # of the experiment that has most of them
    for _, some in rows.dropna(subset="version").groupby("experiment"):
        some = some.drop_duplicates("version")
        here = dict(zip(some["version"], some["revision"], strict=True))
        versions = max(versions, here, key=len)
    # One record may hold many seeds.
    return Found(np.asarray(values), tuple(rows["key"]), versions)


def _with_metric(table: pd.DataFrame, experiment: str, usual: str, where: Where) -> pd.DataFrame:
    """Return the runs that have a value, in the column `value`."""
    settings = {name: value for name, value in where.items() if name != "metric"}
    runs, metric = find(table, experiment, **settings), where.get("metric", usual)
    if metric in runs.columns:
        return runs[runs[metric].notna()].assign(value=runs[metric])
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
    """A claim's verdict with its evidence: estimate, 95 % interval, seeds and record keys.

    A claim with a grid has a judgement for each cell, and no numbers of its own. `preconditions`
    are told with their numbers, and whether they are met.
    """

    verdict: Verdict
    reason: str
    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    seeds: int = 0
    records: tuple[str, ...] = ()
    preconditions: tuple[tuple[str, bool], ...] = ()
    cells: tuple[tuple[str, "Judgement"], ...] = ()
    p: float = np.nan  # of what was tested, not corrected


def judge(claim: Claim, records: pd.DataFrame, profile: str) -> Judgement:
    """Give a verdict on a claim by the records of a profile; `rule` has its words and their order.

    `records` are from `read_evidence` or `records.read_records`; only the first tells the version
    of a record. A profile of the user's own supports no more than the quick one.
    """
    if claim.grid is None:
        return _judge_one(claim, records, profile)
    cells = {cell: _judge_one(claim.at(cell), records, profile) for cell in claim.grid}
    verdict, reason = combine({cell: found.verdict for cell, found in cells.items()})
    told = {(found.verdict, found.reason) for found in cells.values() if found.verdict != "not run"}
    if len(told) == 1 and verdict == next(iter(told))[0]:
        ((_, reason),) = told
    keys = dict.fromkeys(key for found in cells.values() for key in found.records)
    seeds = max(found.seeds for found in cells.values())
    return Judgement(verdict, reason, seeds=seeds, records=tuple(keys), cells=tuple(cells.items()))


def _judge_one(claim: Claim, records: pd.DataFrame, profile: str) -> Judgement:
    """Judge a claim in one setting."""
    try:
        values, keys, versions = gather(claim.query, records)
    except LookupError as nothing:
        return Judgement("not run", str(nothing))
    if len(versions) > 1:
        reason = _of_other_code(versions)
        return Judgement("inconclusive", reason, seeds=len(values), records=keys)
    estimate, low, high, p = float(values.mean()), np.nan, np.nan, np.nan
    if claim.statistic == "largest":
        estimate = float(np.abs(values).max())
        verdict = "reproduced" if estimate <= claim.margin else "not reproduced"
        reason = f"bound {claim.margin:g}"
    else:
        neutral = 0.0 if claim.statistic == "paired difference" else claim.threshold
        asked = Question(claim.direction, claim.threshold, claim.margin, neutral)
        verdict, reason, low, high, p = decide(values, asked)
    if claim.kind == "cost":
        verdict = "measured"
        if not np.isnan(low):
            side = "above" if low > claim.threshold else "below" if high < claim.threshold else ""
            reason = f"the interval {f'lies {side}' if side else 'has'} {claim.threshold:g}"
    found = tuple(_precondition(*one, records) for one in claim.requires.items())
    failed = [told for told, met in found if not met]
    enough = max(claim.seeds, 0 if claim.statistic == "largest" else LEAST)
    if rank(profile) < PROFILES.index(claim.profile):
        verdict, reason = "inconclusive", f"an indication: the claim needs {claim.profile} runs"
    elif len(values) < enough:
        verdict, reason = "inconclusive", f"{len(values)} of at least {enough} seeds"
    elif failed:
        verdict, reason = "not tested here", "; ".join(failed)
    tested = p if verdict not in ("measured", "not tested here") else np.nan
    return Judgement(verdict, reason, estimate, low, high, len(values), keys, found, p=tested)


def _of_other_code(versions: dict[int, str | None]) -> str:
    both = " and ".join(f"{v} (revision {(r or 'unknown')[:8]})" for v, r in versions.items())
    return f"records of versions {both}: make reproduce makes the older ones again"


def _precondition(
    name: Precondition, needed: Requirement, records: pd.DataFrame
) -> tuple[str, bool]:
    """Say what a precondition asks and finds, and whether it is met, by its 95 % t interval."""
    side = "at least" if needed.direction == "greater" else "at most"
    asked = f"{name} ({needed.query.metric} {side} {needed.threshold:g})"
    try:
        values, _, versions = gather(needed.query, records)
    except LookupError as nothing:
        return f"{asked}: {nothing}", False
    if len(versions) > 1:
        return f"{asked}: {_of_other_code(versions)}", False
    if len(values) < LEAST:
        return f"{asked}: {len(values)} of at least {LEAST} seeds", False
    low, high = t_interval(values)
    met = low >= needed.threshold if needed.direction == "greater" else high <= needed.threshold
    return f"{asked}: {values.mean():.3f} t[{low:.3f}, {high:.3f}]", met
