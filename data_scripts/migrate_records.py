"""Give every committed record a version in the place of the source digest; run once.

A record was current if its digest was that of the code it was read beside: these get version 1.
The others get version 0, older than any code's: they are made again where a run asks for them.
"""

import json
import sys
from pathlib import Path

from ubnlib.records import Record

ROOT = Path(__file__).parents[1]


def provenance(old: dict, peak: float | None) -> dict:
    """Return how a number was made in the new layout."""
    return {
        "revision": old["revision"],
        "clean": None if old["dirty"] is None else not old["dirty"],
        "versions": old["versions"],
        "cpu": old["cpu"],
        "gpu": old["gpu"],
        "threads": old["threads"],
        "peak_memory_mb": peak,
        "when": old["finished"],
    }


def migrate_benchmarks(value):
    """Replace every provenance inside a benchmark's report."""
    if isinstance(value, list):
        return [migrate_benchmarks(one) for one in value]
    if isinstance(value, dict):
        return {
            name: provenance(one, None) if name == "provenance" else migrate_benchmarks(one)
            for name, one in value.items()
        }
    return value


def main() -> None:
    """Rewrite the files in place; the outdated ones are named in a JSON list."""
    outdated = set(json.loads(Path(sys.argv[1]).read_text()))
    old = 0
    for path in [*ROOT.glob("results/standard/*/*.json"), *ROOT.glob("tests/golden/*.json")]:
        content = json.loads(path.read_text())
        is_old = path.relative_to(ROOT).as_posix() in outdated
        old += is_old
        del content["schema_version"]
        made = provenance(content.pop("provenance"), content.pop("peak_memory_mb"))
        record = Record(**content, version=0 if is_old else 1, made=made)
        path.write_text(record.model_dump_json(indent=1) + "\n")
    assert old == len(outdated), (old, len(outdated))
    for path in ROOT.glob("results/benchmarks/*.json"):
        content = migrate_benchmarks(json.loads(path.read_text()))
        path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
