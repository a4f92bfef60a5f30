"""The evidence in a folder of run records: a tidy table, what is damaged, and queries.

What is asked for and not there is told in one sentence that says which part of the question
matched nothing.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from experiments.common.records import Record, read_record

Text = Annotated[str, Field(min_length=1)]
Where = dict[Text, bool | int | float | str | None]
ORIGIN = ("revision", "cpu", "gpu", "when")  # of how a record was made


class Query(BaseModel):
    """Which records answer a question, and with which of their numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    experiment: Text
    metric: Text
    where: Where  # configuration entries of the runs, nested ones as `norm.kind`
    baseline: Where | None = None  # of the runs that they are compared with, by seed
    than: Where | None = None  # replaced in both, for a second difference that is taken away


class Evidence(NamedTuple):
    """The records of a folder that can be used, and one sentence on each that cannot."""

    table: pd.DataFrame
    damaged: dict[Path, str]


class Found(NamedTuple):
    """What a query finds: one value a seed, the records' keys, and revisions by version."""

    values: np.ndarray
    keys: tuple[str, ...]
    versions: dict[int, str | None]


def read_evidence(folder: Path | str) -> Evidence:
    """Read the records of a folder, one row a seed, in the order of their names.

    The table has the columns of `records.read_records`, the `version` and the origin of each record
    (`revision`, `cpu`, `gpu`, `when`) and the name of its `file`; metrics come last.
    A file that is damaged, was renamed or does not fit itself is reported and left out. A folder
    that does not exist has no records.
    """
    rows: list[dict[str, Any]] = []
    settings: dict[str, None] = {}  # an ordered set of columns
    metrics: dict[str, None] = {}
    damaged = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            record = read_record(path)
            one = _settings(record, path)
        except OSError as error:
            damaged[path] = f"{path} cannot be read ({error.strerror}): make it readable."
        except ValueError as error:
            damaged[path] = str(error)
        else:
            rows += (one | {"seed": seed} | values for seed, values in _by_seed(record))
            settings |= dict.fromkeys(one)
            metrics |= dict.fromkeys(record.metrics)
    table = pd.DataFrame(rows, columns=list({**settings, "seed": None, **metrics}) if rows else [])
    numbers = [name for name in metrics if name not in settings]
    return Evidence(table.astype(dict.fromkeys(numbers, float)), damaged)


def _settings(record: Record, path: Path) -> dict[str, Any]:
    """Return what the rows of a record share.

    Raises:
        ValueError: The record contradicts itself.
    """
    canonical = json.dumps(record.config, sort_keys=True)  # as in `Config.key`
    flat = dict(_flat(record.config))
    own = {"key": record.key, "version": record.version, "seconds": record.seconds}
    own |= {name: getattr(record.made, name) for name in ORIGIN} | {"file": path.name}
    fault = None
    if hashlib.sha256(canonical.encode()).hexdigest()[:16] != record.key:
        fault = "its configuration is not the one of its key"
    elif flat.get("experiment") != record.experiment:
        fault = f"its configuration is of the experiment {flat.get('experiment')}"
    elif len(set(record.seeds)) < len(record.seeds):
        fault = "a seed is there twice"
    elif both := sorted({*flat, *own, "seed"} & set(record.metrics)) or sorted({*flat} & {*own}):
        fault = f"{both[0]} names two things in it"
    if fault is not None:
        raise ValueError(f"{path} was changed ({fault}): delete it, and the next run makes it.")
    del flat["experiment"]  # first in every row
    return {"experiment": record.experiment} | flat | own


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a configuration's entries, nested ones as `norm.kind`, but its seeds."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif prefix or name not in ("seed", "seeds"):
            yield prefix + name, value


def _by_seed(record: Record) -> Iterator[tuple[int, dict[str, float | None]]]:
    for position, seed in enumerate(record.seeds):
        yield seed, {name: values[position] for name, values in record.metrics.items()}


def find(table: pd.DataFrame, experiment: str, /, **where: Any) -> pd.DataFrame:
    """Return the rows of an experiment's runs with the given settings, without empty columns.

    Args:
        table: From `read_evidence` or `experiments.common.records.read_records`.
        experiment: Its name.
        **where: Configuration entries, nested ones as `**{"norm.kind": "ubn"}`; None is one that
            the configuration leaves open.

    Raises:
        LookupError: There is no such run; one sentence says why.

    Example:
        >>> import pandas as pd
        >>> runs = {"experiment": "toy", "norm.kind": ["bn", "ubn"], "key": ["a", "b"], "seed": 0}
        >>> table = pd.DataFrame(runs).assign(score=[0.5, 0.75])
        >>> find(table, "toy", **{"norm.kind": "ubn"})["score"].tolist()
        [0.75]
        >>> find(table, "toy", **{"norm.knd": "ubn"})
        Traceback (most recent call last):
        LookupError: no record has norm.knd: did you mean norm.kind?
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
            raise LookupError(f"no record has {name}{_meant(name, table.columns)}")
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


def gather(query: Query, table: pd.DataFrame) -> Found:
    """Return what a query finds: values, or differences paired by seed.

    Raises:
        LookupError: It finds nothing; one sentence says why.
        ValueError: There are several runs of one seed.
    """
    sides = [(1, query.where)]
    if query.baseline is not None:
        sides.append((-1, query.baseline))
    if query.than is not None:
        sides += [(-sign, where | query.than) for sign, where in sides]
    runs = [_with_metric(table, query, where) for _, where in sides]
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
    values = sum(sign * part for (sign, _), part in zip(sides, by_seed, strict=True))
    rows = pd.concat([part.reindex(columns=["key", "version", "revision"]) for part in runs])
    rows = rows.astype(object).where(rows.notna(), None).drop_duplicates("key")
    versions = rows.dropna(subset="version").drop_duplicates("version")
    return Found(
        np.asarray(values),
        tuple(rows["key"]),  # one record may hold many seeds
        dict(zip(versions["version"], versions["revision"], strict=True)),
    )


def _with_metric(table: pd.DataFrame, query: Query, where: Where) -> pd.DataFrame:
    """Return the runs that have a value."""
    runs = find(table, query.experiment, **where)
    if query.metric in runs.columns:
        return runs[runs[query.metric].notna()]
    of_all = table[table["experiment"] == query.experiment].dropna(axis="columns", how="all")
    if query.metric in of_all.columns:
        keys = ", ".join(runs["key"].unique()[:3])
        raise LookupError(f"no value of {query.metric} in the records of such runs ({keys})")
    behind = list(of_all.columns)[list(of_all.columns).index("seed") + 1 :]
    there = ", ".join(name for name in behind if pd.api.types.is_numeric_dtype(of_all[name]))
    raise LookupError(
        f"no record of {query.experiment} has the metric {query.metric!r}; there are: {there}"
    )


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]}?" if close else ""


def _span(seeds: pd.Series) -> str:
    return f"{seeds.min()} to {seeds.max()}" if len(seeds) > 1 else f"{seeds.min()}"


def _yaml(value: Any) -> str:
    """Write a value as the ledger has it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value).removesuffix(".0")  # a whole number in a column that has gaps
