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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.common.files import whole
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
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
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


def _none_for_nan(value: float | None) -> float | None:
    return None if value is not None and math.isnan(value) else value


# JSON has no NaN: so a number is the same before a record is written and after.
Number = Annotated[float | None, AfterValidator(_none_for_nan)]


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
    def _one_entry_a_seed(self) -> "Record":
        for name, values in (*self.metrics.items(), *self.curves.items()):
            if len(values) != len(self.seeds):
                raise ValueError(
                    f"{name!r} has {len(values)} entries for {len(self.seeds)} seeds: a run must "
                    "give one a seed"
                )
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


def obtain(config: Config, run: Callable[[Config], Record], folder: Path | str) -> Record:
    """Return the record of a configuration, making and writing it where it is missing.

    A record of an older version is made again.

    Args:
        config: What to run.
        run: Makes the record.
        folder: Where records are kept, as EXPERIMENT-KEY.json.

    Raises:
        ValueError: The file there is damaged, or of a newer version.
    """
    record = current_record(config, folder)
    if record is None:
        record = run(config)
        write_record(record, folder)
    return record


def current_record(config: Config, folder: Path | str) -> Record | None:
    """Return the record of a configuration; None where it is missing or of an older version.

    Raises:
        ValueError: The file there is damaged, or of a newer version.
    """
    path = record_path(config, folder)
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except OldRecordError:
        return None
    if record.version > config.version:
        raise ValueError(
            f"{path} is of version {record.version} of the experiment {record.experiment}, and "
            f"this code makes version {config.version}: update the project, or delete the record."
        )
    return record if record.version == config.version else None


def record_path(config: Config, folder: Path | str) -> Path:
    """Return where a configuration's record is kept."""
    return Path(folder) / f"{config.experiment}-{config.key}.json"


def write_record(record: Record, folder: Path | str) -> Path:
    """Write a record as EXPERIMENT-KEY.json, whole or not at all."""
    path = Path(folder) / f"{record.experiment}-{record.key}.json"
    with whole(path) as partial:
        partial.write_text(record.model_dump_json(indent=1) + "\n")
    return path


class OldRecordError(ValueError):
    """A record was written before records had versions."""


def read_record(path: Path | str) -> Record:
    """Read and validate one record.

    Raises:
        OldRecordError: The file is a record from before records had versions.
        ValueError: The file is no record, or not that of its name.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8")
        record = Record.model_validate_json(content)
    except (ValidationError, UnicodeDecodeError) as error:
        if isinstance(error, ValidationError) and _is_old(content):
            raise OldRecordError(
                f"{path} is a run record from before records had versions, which nothing tells "
                "whether its numbers still hold: delete it, or its whole folder, and the next run "
                "makes it again."
            ) from None
        raise ValueError(
            f"{path} is not a run record ({_reason(error)}): delete it, and the next run makes it "
            "again."
        ) from error
    if path.name != f"{record.experiment}-{record.key}.json":
        raise ValueError(
            f"{path} holds the record {record.experiment}-{record.key}: it was renamed; delete "
            "it or give it its name back."
        )
    return record


def _is_old(content: str) -> bool:
    """Whether a file is a record of the layouts that named the code by its digest."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "provenance" in found and "version" not in found


def _reason(error: ValidationError | UnicodeDecodeError) -> str:
    """Return the first of what is wrong, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def read_records(folder: Path | str, experiment: str | None = None) -> pd.DataFrame:
    """Return a tidy table of the records in a folder, one row a seed, in the order of their names.

    Columns are the configuration's entries (nested ones as `norm.kind`), the metrics, `seed`,
    `key`, and `seconds` of the whole run. A folder that does not exist has no records.
    """
    paths = sorted(Path(folder).glob(f"{experiment or '*'}-*.json"))
    tables = [_table(record) for record in map(read_record, paths)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _table(record: Record) -> pd.DataFrame:
    """Return one row a seed."""
    flat = pd.json_normalize(record.config).iloc[0].drop("seeds", errors="ignore").to_dict()
    flat |= {"key": record.key, "seconds": record.seconds}
    values = pd.DataFrame(record.metrics, index=range(len(record.seeds)), dtype=float)
    return pd.DataFrame([flat] * len(values)).assign(seed=record.seeds).join(values)
