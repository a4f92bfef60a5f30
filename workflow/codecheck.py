"""A run's CODECHECK configuration file, prepared for a codechecker: what to make again and compare.

The format is https://codecheck.org.uk/spec/config/1.0/.
"""

from pathlib import Path
from typing import Any

import yaml

VERSION = "https://codecheck.org.uk/spec/config/1.0/"
NOBODY = "none yet"
HEADER = f"""%YAML 1.1
---
# Prepared for a codechecker. Nobody has checked this run yet: where it says "{NOBODY}", and in the
# summary and check_time, the codechecker writes what is true then.
"""


def paper(citation: Path) -> dict[str, Any]:
    """Take the paper's title, authors and place from the references of a CITATION.cff."""
    if not citation.exists():
        return {}
    entry = yaml.safe_load(citation.read_text(encoding="utf-8"))["references"][0]
    pages = f", pages {entry['start']}-{entry['end']}" if "start" in entry else ""
    where = f"{entry.get('collection-title', '').strip()}, {entry['year']}{pages}"
    return {
        "title": entry["title"],
        "authors": [{"name": f"{a['given-names']} {a['family-names']}"} for a in entry["authors"]],
        "reference": entry.get("doi") or entry.get("url") or where,
    }


def codecheck(
    citation: Path, results: Path, profile: str, revision: str, figures: dict[str, list[dict]]
) -> str:
    """Write the file's text.

    Args:
        citation: The project's CITATION.cff.
        results: The run's folder, in which the file will lie.
        profile: The run's profile.
        revision: The code's revision; "" if it is unknown.
        figures: As `group_figures` returns them.
    """
    manifest = [{"file": "claims.json", "comment": "every claim with numbers and verdict"},
                {"file": "claims.md", "comment": "the same as a short table"}]  # fmt: skip
    for notebook, entries in figures.items():
        for figure in entries:
            what = f"{figure['name']}, of notebook {notebook}" if notebook else figure["name"]
            for kind, comment in (("csv", "numbers behind the figure"), ("pdf", "figure")):
                if kind in figure:
                    file = f"figures/{figure[kind]}"
                    manifest.append({"file": file, "comment": f"{comment} {what}"})
    document = {
        "version": VERSION,
        "paper": paper(citation),
        "manifest": manifest,
        "codechecker": [{"name": NOBODY}],
        "report": NOBODY,
        "source": f"`make reproduce PROFILE={profile}`"
        + (f" at revision {revision}" if revision else ""),
        "summary": f"{NOBODY}: the files are as the workflow wrote them, and wait for a check.",
        "check_time": None,
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return HEADER + text
