"""Write a run's report: which claims of the paper hold, how sure that is, and why.

    python workflow/make_report.py profiles/PROFILE.yaml results/PROFILE

run in the project's folder. Besides report.html it writes claims.md, claims.json, codecheck.yml
and a page for each executed notebook. What is missing or broken is named on the page.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd

from check_profile import ProfileError, load_profile, notebook_names
from codecheck import codecheck
from executed import describe, deviations, discussed
from experiments.verdicts.claims import Claim, load_claims
from experiments.verdicts.figures import COLORS, SYMBOLS, interval_svg, strip_svg
from experiments.verdicts.tables import (
    VERDICTS,
    count,
    in_paper_order,
    section,
    sentence,
    to_json,
    to_markdown,
)
from run_facts import machine, revision
from run_figures import group_figures, thumbnail
from sources import Source, find_problems, read_sources
from whole import write_whole


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
        "symbol": SYMBOLS[row["verdict"]],
        "files": [
            (name, f"{folder}/records/{name}.json".removeprefix("./")) for name in row["records"]
        ],
        "hardware": known("cpu") + known("gpu"),
        "revisions": [name[:12] for name in known("revision")],
        "days": " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "",
    }


def make_report(profile: Path, results: Path, root: Path) -> dict[str, str]:
    """Return the texts of the report's files by name.

    Args:
        profile: The profile's YAML file.
        results: The folder that holds `records/`, `figures/` and `notebooks/`, where they will lie.
        root: The project's folder, with `claims.yaml` and `notebooks/`.
    """
    chosen = load_profile(profile.stem, profile.absolute().parents[1])
    source_folder = root / "notebooks"
    names = [name for name in notebook_names(root) if name in chosen["notebooks"]]
    notebooks = [describe(name, results, source_folder) for name in names]
    claims = in_paper_order(load_claims(root / "claims.yaml"))
    sources = read_sources(claims, profile.stem, results, root)
    figures = group_figures(results / "figures", names)
    made, code = time.strftime("%Y-%m-%d %H:%M %z"), revision(root)
    kitti_root = next(filter(None, (n["parameters"].get("kitti_root") for n in notebooks)), "")
    entries = [
        {
            "ledger": claim,
            "section": section(claim),
            "changed": getattr(claim, "changed", None),
            "verdicts": [verdict_entry(claim, source, results) for source in sources],
            "notebook": discussed(claim.id, claim.place, notebooks, results),
            "command": f"make claim CLAIM={claim.id} PROFILE={profile.stem}"
            + (" KITTI_ROOT=FOLDER" if kitti_root else ""),
        }
        for claim in claims
    ]
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
        description=chosen["description"],
        made=made,
        revision=code,
        problems=find_problems(claims, sources, notebooks, results),
        summaries=[
            {"label": s.label, "profile": s.profile, "sentence": sentence(s.table),
             "counts": count(s.table), "strip": strip_svg(count(s.table)),
             "indications": int(s.table["reason"].str.startswith("an indication").sum())}
            for s in sources
        ],
        claims=entries,
        sections=list(dict.fromkeys(entry["section"] for entry in entries)),
        verdicts=VERDICTS,
        symbols=SYMBOLS,
        colors=COLORS,
        notebooks=notebooks,
        deviations=[(n, deviations(n, source_folder, results)) for n in notebooks],
        figures=figures,
        thumbnails={
            figure["png"]: thumbnail(results / "figures" / figure["png"])
            for group in figures.values()
            for figure in group
        },
        facts={"Depth data": kitti_root or "synthetic drives", "Report made": made,
               "Revision": code} | machine(),
    )  # fmt: skip
    run = sources[0]
    everything = {"profile": profile.stem, "made": made, "revision": code,
                  "claims": to_json(claims, run.table)}  # fmt: skip
    return {
        "report.html": page,
        "claims.md": to_markdown(run.table),
        "claims.json": json.dumps(everything, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "codecheck.yml": codecheck(root / "CITATION.cff", results, profile.stem, code, figures),
    }


def main() -> None:
    """Write the report of the run named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", type=Path)
    parser.add_argument("results", type=Path)
    args = parser.parse_args()
    try:
        files = make_report(args.profile, args.results, Path.cwd())
    except (ProfileError, ValueError, OSError) as error:
        sys.exit(f"No report can be made: {error}")
    for name, text in files.items():
        write_whole(args.results / name, text)


if __name__ == "__main__":
    main()
