"""Run records: one JSON file for one run, named by the hash of its configuration.

A run trains one net, or nets of several seeds side by side. Its record says what was run
(configuration, seeds), what came out for each seed (metrics, curves) and where (revision, versions,
hardware, duration), so that every number of the companion can be traced.
"""

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.common.files import first_error, whole
from experiments.common.provenance import Provenance, provenance


class Config(BaseModel):
    """Base of all run configurations: unknown keys are errors, and nothing changes afterwards.

    The `version` of a run's configuration is raised by hand when the same configuration gives other
    numbers; `tests/test_golden.py` tells when it does.
    """

    version: ClassVar[int]

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of the configuration's canonical JSON."""
        return _key_of(self.model_dump(mode="json"))


def _key_of(config: dict[str, Any]) -> str:
    canonical = json.dumps(config, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """What a run gives: final numbers and curves of each seed, and sets of frames by role.

    A number is None or NaN where there is none, such as an error's rank among no errors.
    """

    metrics: dict[str, list[float | None]]
    curves: dict[str, list[list[float | None]]]
    frames: dict[str, list[str]] = field(default_factory=dict)  # as in `ubnlib.kitti.splits`

    @classmethod
    def of_one_seed(
        cls,
        metrics: dict[str, float | None],
        curves: dict[str, list[float]],
        frames: dict[str, list[str]] | None = None,
    ) -> "Result":
        """Return the result of a run that has one seed."""
        return cls(
            {name: [value] for name, value in metrics.items()},
            {name: [values] for name, values in curves.items()},
            frames or {},
        )


# JSON has no NaN: so a number is the same before a record is written and after.
Number = Annotated[float | None, AfterValidator(lambda value: None if value != value else value)]
# What tables of records have beside settings and metrics.
COLUMNS = ("key", "seconds", "seed", "version", "revision", "cpu", "gpu", "when", "file")


class Record(BaseModel):
    """One finished run; metrics and curves have one entry a seed."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    experiment: str
    version: Annotated[int, Field(ge=0)]  # of the configuration's class; 0: before versions
    key: str
    config: dict[str, Any]
    seeds: list[int]
    metrics: dict[str, list[Number]]
    curves: dict[str, list[list[Number]]]
    frames: dict[str, list[str]] = {}
    seconds: float
    made: Provenance

    @model_validator(mode="after")
    def _fits_itself(self) -> "Record":
        for name, values in (*self.metrics.items(), *self.curves.items()):
            if len(values) != len(self.seeds):
                raise ValueError(
                    f"{name!r} has {len(values)} entries for {len(self.seeds)} seeds: a run must "
                    "give one a seed"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is there twice")
        if self.key != _key_of(self.config) or self.experiment != self.config.get("experiment"):
            raise ValueError("its configuration is not the one of its key")
        names = [*COLUMNS, *(name for name, _ in flat_entries(self.config)), *self.metrics]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} names two things in it")
        return self


Run = Callable[..., Record]


class Experiment(NamedTuple):
    """What makes an experiment's records; each section's `runs.EXPERIMENTS` lists its own."""

    config: type[Config]
    run: Run
    frames: bool = False  # whether it trains on packed frames
    alone: bool = False  # whether it times the machine, which then does nothing else


class PlannedRun(NamedTuple):
    """A run that a notebook needs; each section's `runs.notebook_runs` lists its own."""

    label: str  # for the reader
    config: Config
    folder: str = "records"  # of the results
    weights: bool = False  # whether the notebook draws pictures of the trained net


def recorded(run: Callable[..., Result]) -> Run:
    """Turn `run(config, ...) -> Result` into `run(config, ...) -> Record`."""

    @functools.wraps(run)
    def make_record(config: Config, *args: Any, **kwargs: Any) -> Record:
        start = time.perf_counter()
        result = run(config, *args, **kwargs)
        return Record(
            experiment=config.experiment,
            version=config.version,
            key=config.key,
            seeds=getattr(config, "seeds", None) or [config.seed],
            config=config.model_dump(mode="json"),
            metrics=result.metrics,
            curves=result.curves,
            frames=result.frames,
            seconds=round(time.perf_counter() - start, 3),
            made=provenance(),
        )

    return make_record


class NewerRecord(ValueError):
    """A record of a newer version than this code makes: to be kept."""


def obtain(config: Config, run: Callable[[Config], Record], folder: Path | str) -> Record:
    """Return the record of a configuration, made and written where it is missing or older.

    Raises:
        ValueError: The file there is damaged, or (NewerRecord) of a newer version.
    """
    record = current_record(config, folder)
    if record is None:
        record = run(config)
        write_record(record, folder)
    return record


def current_record(config: Config, folder: Path | str) -> Record | None:
    """Return the record of a configuration; None where it is missing or of an older version.

    Raises:
        ValueError: The file there is damaged, or (NewerRecord) of a newer version.
    """
    path = record_path(config, folder)
    if not path.exists():
        return None
    record = read_record(path)
    if record.version > config.version:
        raise NewerRecord(
            f"{path} is of version {record.version} of the experiment {record.experiment}, and "
            f"this code makes version {config.version}: update the project, or delete the record."
        )
    return record if record.version == config.version else None


def record_path(run: Config | Record, folder: Path | str) -> Path:
    """Return where the record of a configuration is kept."""
    return Path(folder) / f"{run.experiment}-{run.key}.json"


def write_record(record: Record, folder: Path | str) -> Path:
    """Write a record as EXPERIMENT-KEY.json, whole or not at all."""
    path = record_path(record, folder)
    with whole(path) as partial:
        partial.write_text(record.model_dump_json(indent=1) + "\n")
    return path


def read_record(path: Path | str) -> Record:
    """Read and validate one record.

    Raises:
        ValueError: The file is no record, or not that of its name.
    """
    path = Path(path)
    try:
        record = Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else first_error(error)
        raise ValueError(
            f"{path} is not a run record ({reason}): delete it, and the next run makes it again."
        ) from error
    if path != record_path(record, path.parent):
        raise ValueError(
            f"{path} holds the record {record.experiment}-{record.key}: it was renamed; delete "
            "it or give it its name back."
        )
    return record


def read_records(folder: Path | str, experiment: str | None = None) -> pd.DataFrame:
    """Return a tidy table of the records in a folder, one row a seed, in the order of their names.

    Columns are the configuration's entries (nested ones as `norm.kind`), `key`, `seconds` of the
    whole run, `seed` and the metrics. A folder that does not exist has no records.
    """
    paths = sorted(Path(folder).glob(f"{experiment or '*'}-*.json"))
    return pd.DataFrame([row for path in paths for row in rows_of(read_record(path))])


def rows_of(record: Record) -> list[dict[str, Any]]:
    """Return a record as rows of a table, one a seed."""
    shared = {**dict(flat_entries(record.config)), "key": record.key, "seconds": record.seconds}
    return [
        shared
        | {"seed": seed}
        | {n: math.nan if v[i] is None else v[i] for n, v in record.metrics.items()}
        for i, seed in enumerate(record.seeds)
    ]


def check_rates(table: pd.DataFrame, by: list[str]) -> None:
    """Check that the runs of each cell, named by `by`, have one learning rate.

    Raises:
        ValueError: Some have others, and a mean would be of both.
    """
    for cell, rates in table.groupby(by)["learning_rate"].unique().items():
        if len(rates) > 1:
            told = ", ".join(f"{name} {value}" for name, value in zip(by, cell, strict=True))
            found = " and ".join(f"{rate:g}" for rate in sorted(rates))
            raise ValueError(
                f"The records hold runs at learning rates {found} ({told}): choose among them "
                "first."
            )


def side_by_side(table: pd.DataFrame, by: list[str], arms: str, metric: str) -> pd.DataFrame:
    """Return a metric with a row for each cell and seed, named by `by`, and a column for each arm.

    Raises:
        ValueError: An arm has several runs there, which a mean would hide.
    """
    names = [*by, arms]
    if len(twice := table[table.duplicated(names)]):
        told = ", ".join(f"{name} {twice.iloc[0][name]}" for name in names)
        raise ValueError(
            f"The records hold several runs of one seed ({told}), made with different parameters: "
            "use a fresh results folder, or choose among the records first."
        )
    return table.pivot(index=by, columns=arms, values=metric)


def flat_entries(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a configuration's entries, nested ones as `norm.kind`, but its seeds."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flat_entries(value, f"{prefix}{name}.")
        elif prefix or name not in ("seed", "seeds"):
            yield prefix + name, value
