"""The folders of records that a report judges the claims by, and what a run lacks."""

import os
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiments.verdicts.claims import PROFILES, Claim, Evidence, read_evidence
from experiments.verdicts.tables import judge_all

COMMITTED = "standard"  # the profile whose records are part of the repository


class Source(NamedTuple):
    """A folder of records, and the verdicts that they allow."""

    label: str
    profile: str
    folder: Path  # of the results
    evidence: Evidence
    table: pd.DataFrame


def read_sources(claims: list[Claim], profile: str, results: Path, root: Path) -> list[Source]:
    """Judge the claims by this run's records, and by the committed ones where these are others."""
    places = [("this run", profile, results)]
    committed = root / "results" / COMMITTED
    if committed.absolute() != results.absolute() and (committed / "records").is_dir():
        places.append(("committed records", COMMITTED, committed))
    sources = []
    for label, name, folder in places:
        evidence = read_evidence(folder / "records")
        table = judge_all(claims, evidence.table, name)
        sources.append(Source(label, name, folder, evidence, table))
    return sources


def find_problems(
    claims: list[Claim], sources: list[Source], notebooks: list[dict], results: Path
) -> list[dict[str, str]]:
    """List what the run lacks: a sentence each, with the file to look at (`link`, or "")."""
    problems = []
    for notebook in notebooks:
        name, log = notebook["name"], notebook["log"]
        if notebook["problem"]:
            text = f"Notebook {name} cannot be shown: {notebook['problem']}"
            problems.append({"text": text, "link": notebook["file"]})
        elif notebook["state"] == "failed":
            problems.append({"text": f"Notebook {name} failed; kept up to the error.",
                             "link": notebook["page"] or notebook["file"]})  # fmt: skip
        elif notebook["state"] == "missing":
            problems.append({"text": f"Notebook {name} has not been run to its end.", "link": log})
    for log in sorted((results / "logs").glob("*/*.log")):  # of runs: FOLDER/RECORD.log
        if not (results / log.parent.name / f"{log.stem}.json").exists():
            text = f"The run {log.stem} left no record; it failed or was stopped."
            problems.append({"text": text, "link": log.relative_to(results).as_posix()})
    for source in sources:
        folder = os.path.relpath(source.folder, results)
        for path, reason in source.evidence.damaged.items():
            link = Path(folder, "records", path.name).as_posix()
            text = reason.replace(str(path), f"{source.label}: {path.name}")
            text = text if path.name in text else f"{source.label}: {path.name}: {text}"
            problems.append({"text": f"Left out: {text}", "link": link})
    run = sources[0]
    rank = PROFILES.index(run.profile) if run.profile in PROFILES else 0
    able = {c.id for c in claims if c.query and PROFILES.index(c.profile) <= rank}
    missing = run.table[(run.table["verdict"] == "not run") & run.table["claim"].isin(able)]
    if len(missing):
        names = ", ".join(missing["claim"])
        problems.append({"text": f"No record of a run yet for: {names}.", "link": ""})
    return problems
