"""Write a run's report: which claims of the paper hold, how sure that is, and why.

    python workflow/report.py profiles/PROFILE.yaml results/PROFILE

run in the project's folder. Besides report.html it writes claims.md, claims.json and a page for
each executed notebook. What is missing or broken is named on the page.
"""

import base64
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import pandas as pd
from PIL import Image

from claim import rerun
from experiments.common.files import whole
from experiments.common.provenance import provenance
from experiments.verdicts import answer, tables
from experiments.verdicts.claims import PROFILES, Claim, Evidence, load_claims, rank, read_evidence
from experiments.verdicts.figures import COLORS, SYMBOLS, interval_svg
from experiments.verdicts.rule import MEANING
from notebook_html import deviations, discussed, notebook_entry
from parameters import load_profile, notebook_names
from prose import COMMITTED

THUMBNAIL = 1120  # pixels across


class Source(NamedTuple):
    """A folder of results, and the verdicts that its records allow."""

    label: str
    profile: str
    folder: Path
    evidence: Evidence
    table: pd.DataFrame

    @property
    def is_run(self) -> bool:
        """Whether it is what the report is of, and not what it is compared with."""
        return self.label == "this run"


def read_sources(claims: list[Claim], profile: str, results: Path, root: Path) -> list[Source]:
    """Judge the claims by this run's records and, where these are others, by the committed ones.

    The larger profile comes first, for a smaller one gives indications.
    """
    places = [("this run", profile, results)]
    committed = root / "results" / COMMITTED
    if committed.absolute() != results.absolute() and (committed / "records").is_dir():
        places.append(("the committed records", COMMITTED, committed))
    places.sort(key=lambda place: -rank(place[1]))
    sources = []
    for label, name, folder in places:
        evidence = read_evidence(folder / "records")
        table = tables.judge_all(claims, evidence.table, name)
        sources.append(Source(label, name, folder, evidence, table))
    return sources


def verdict_entry(claim: Claim, source: Source, results: Path) -> dict[str, Any]:
    """Gather what the page says of a claim by one folder of records."""
    row = source.table.set_index("claim", drop=False).loc[claim.id].to_dict()
    made = source.evidence.table
    if row["records"]:
        keys = {name.rpartition("-")[2] for name in row["records"]}
        made = made[made["key"].isin(keys) & (made["experiment"] == claim.query.experiment)]
    else:
        made = made.head(0)
    folder = Path(os.path.relpath(source.folder, results)).as_posix()

    def known(column: str) -> list[str]:
        return sorted({str(v) for v in made.get(column, ()) if not pd.isna(v)})

    days = [when[:10] for when in known("when")]
    return row | {
        "label": source.label,
        "profile": source.profile,
        "svg": interval_svg(row),
        "cells": [cell | {"svg": interval_svg(cell)} for cell in row["cells"]],
        "symbol": SYMBOLS[row["verdict"]],
        "files": [
            (name, f"{folder}/records/{name}.json".removeprefix("./")) for name in row["records"]
        ],
        "hardware": known("cpu") + known("gpu"),
        "revisions": [name[:12] for name in known("revision")],
        "days": " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "",
    }


def find_problems(
    claims: list[Claim], sources: list[Source], notebooks: list[dict], results: Path
) -> list[dict[str, str]]:
    """List what the run lacks: a sentence each, with the file to look at (`link`, or "")."""
    problems = [
        {"text": n["problem"], "link": n["page"] or n["file"] or n["log"]}
        for n in notebooks
        if n["problem"]
    ]
    plan = results / "plan.json"
    jobs = json.loads(plan.read_text(encoding="utf-8"))["jobs"] if plan.exists() else {}
    for job, runs in ((job, jobs[job]["runs"]) for job in jobs):
        for run in runs:
            if not (results / run["record"]).exists():
                log = f"logs/{job}.log"
                text = f"The run {run['label']} left no record; it failed or was stopped."
                problems.append({"text": text, "link": log if (results / log).exists() else ""})
    for source in sources:
        folder = os.path.relpath(source.folder, results)
        for path, reason in source.evidence.damaged.items():
            text = f"Left out, {source.label}: {path.name}: {reason.replace(str(path), 'it')}"
            link = Path(folder, "records", path.name).as_posix()
            problems.append({"text": text, "link": link})
    run = next(source for source in sources if source.is_run)
    able = {c.id for c in claims if rank(c.profile) <= rank(run.profile)}
    missing = run.table[(run.table["verdict"] == "not run") & run.table["claim"].isin(able)]
    if len(missing):
        names = ", ".join(missing["claim"])
        problems.append({"text": f"No record of a run yet for: {names}.", "link": ""})
    return problems


def group_figures(folder: Path, names: list[str]) -> dict[str, list[dict[str, str]]]:
    """Give each figure to the notebook whose number its name begins with, or to ""."""
    groups: dict[str, list] = {name: [] for name in [*names, ""]}
    by_number = {name.split("_")[0]: name for name in names}
    for png in sorted(folder.glob("[!.]*.png")):
        kinds = (kind for kind in ("png", "pdf", "csv") if png.with_suffix(f".{kind}").exists())
        figure = {"name": png.stem} | shown(png)
        figure |= {kind: f"{png.stem}.{kind}" for kind in kinds}
        groups[by_number.get(png.stem.split("_")[0], "")].append(figure)
    return groups


def picture_of(folder: Path, results: Path) -> Callable[[str | None], dict[str, str]]:
    """Return a function that gives a figure's thumbnail and its link, {} where it is missing."""

    def picture(name: str | None) -> dict[str, str]:
        png = folder / f"{name}.png"
        if name is None or not png.is_file():
            return {}
        link = Path(os.path.relpath(png, results)).as_posix()
        return {"link": link} | shown(png)

    return picture


def shown(path: Path) -> dict[str, str]:
    """Return a picture's caption, which `style.save` puts into the file, and its thumbnail.

    That is a small version as a data address; both are "" for a file that is no picture.
    """
    try:
        with Image.open(path) as picture:
            caption, picture = picture.info.get("Description", ""), picture.convert("RGB")
    except OSError:
        return {"caption": "", "thumbnail": ""}
    picture.thumbnail((THUMBNAIL, 2 * THUMBNAIL), Image.Resampling.LANCZOS)
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=80)
    address = "data:image/webp;base64," + base64.b64encode(small.getvalue()).decode()
    return {"caption": caption, "thumbnail": address}


def make_report(profile: Path, results: Path, root: Path) -> dict[str, str]:
    """Return the texts of the report's files by name; `root` is the project's folder."""
    chosen = load_profile(profile.stem, profile.absolute().parents[1])
    names = [name for name in notebook_names(root) if name in chosen["notebooks"]]
    notebooks = [notebook_entry(name, results, root / "notebooks") for name in names]
    claims = tables.in_paper_order(load_claims(root / "claims.yaml"))
    sources = read_sources(claims, profile.stem, results, root)
    made, here = time.strftime("%Y-%m-%d %H:%M %z"), provenance()
    revision = (here.revision or "")[:12] + ("" if here.clean is not False else " + changes")
    kitti_root = next(filter(None, (n["parameters"].get("kitti_root") for n in notebooks)), "")
    frames = results / "frames.json"
    packed = json.loads(frames.read_text(encoding="utf-8")) if frames.exists() else {}
    profiles = [profile.stem, *(name for name in PROFILES if name != profile.stem)]
    entries = {
        claim.id: {
            "ledger": claim,
            "section": tables.section(claim),
            "verdicts": [verdict_entry(claim, source, results) for source in sources],
            "notebook": discussed(claim.id, claim.place, notebooks, results),
            "command": rerun(claim, profiles, root),
        }
        for claim in claims
    }
    stated = answer.load_answer(root / "statements.yaml")
    judged = [answer.judge_statements(stated, source.table) for source in sources]
    pictures = picture_of(root / "results" / COMMITTED / "figures", results)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["urlencode_path"] = lambda link: quote(link, safe="/#:?,'()")
    page = environment.get_template("report.html.j2").render(
        profile=profile.stem,
        problems=find_problems(claims, sources, notebooks, results),
        sources=sources,
        lines=[answer.in_lines(stated, one) for one in judged],
        units=answer.UNITS,
        doubt=answer.DOUBT,
        statements=[[one[name] for one in judged] for name in judged[0]],
        picture=pictures,
        counts=[f"{tables.sentence(s.table)} {tables.corrected(s.table)}" for s in sources],
        claims=entries,
        apart=(tables.BEYOND, *tables.APART.values()),
        meanings=MEANING,
        symbols=SYMBOLS,
        colors=COLORS,
        notebooks=notebooks,
        deviations=[(n, deviations(n, root / "notebooks", results)) for n in notebooks],
        figures=group_figures(results / "figures", names),
        playground=(root / "docs" / "playground.html").is_file(),
        facts={
            "Depth data": kitti_root or "synthetic drives",
            "Frames": packed.get("report", "not packed").replace("\n", "; "),
            "What it is": chosen["description"],
            "Report made": made,
            "Revision": revision,
            "Processor": f"{here.cpu}, {os.cpu_count()} cores",
            "Graphics": here.gpu,
            **here.versions,
        },
    )
    run, found = next(one for one in zip(sources, judged, strict=True) if one[0].is_run)
    text = f"# Does the paper hold?\n\nBy this run, profile {profile.stem}.\n\n"
    text += answer.lines_markdown(stated, found) + f"\n{answer.WORDS}\n\n"
    everything = {"profile": profile.stem, "made": made, "revision": revision}
    everything["claims"] = tables.to_json(claims, run.table)
    return {
        "report.html": page,
        "claims.md": text + answer.statements_markdown(found, run.table),
        "claims.json": json.dumps(everything, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }


def main(*arguments: str) -> None:
    """Write the report of a run."""
    try:
        profile, folder = map(Path, arguments)
        files = make_report(profile, folder, Path.cwd())
    except (ValueError, OSError) as error:
        sys.exit(f"No report can be made: {error}")
    for name, text in files.items():
        with whole(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
