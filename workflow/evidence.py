"""The run records of a folder as one table, and the files in it that are none."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ubnlib.records import _table, read_record


class Evidence(NamedTuple):
    """All that a folder's records say, and what is wrong with the files that say nothing."""

    table: pd.DataFrame
    damaged: dict[Path, str]


def read_evidence(folder: Path | str) -> Evidence:
    """Read the records of a folder; a damaged file is named and left out.

    Returns:
        `table`, as `ubnlib.records.read_records` gives it, with the columns `source`, `revision`,
        `cpu`, `gpu` and `finished`; and `damaged`, the reason by file.
    """
    tables, damaged = [], {}
    for path in sorted(Path(folder).glob("*-*.json")):
        try:
            record = read_record(path)
        except ValueError as error:
            damaged[path] = str(error)
            continue
        names = ("source", "revision", "cpu", "gpu", "finished")
        made = {name: getattr(record.provenance, name) for name in names}
        tables.append(_table(record).assign(**made))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return Evidence(table, damaged)
