"""The notebooks of a run: what each says of itself, where it stands, and its sections as HTML."""

import re
from html import unescape
from pathlib import Path
from typing import Any

from make_html import make_html, markdown_to_html
from read_notebook import read_notebook
from terminal import duration
from whole import write_whole

# Shown once for the whole run, or not at all: it is where the report lies.
HIDDEN = ("results",)
OURS = "Paper against ours"


def convert(notebook: Path, source: Path) -> str:
    """Write an executed notebook's HTML beside it, where that is missing or older.

    Args:
        notebook: The executed notebook.
        source: The folder that its links are meant from.

    Returns:
        What is wrong with the notebook; "" if nothing.
    """
    page = notebook.with_suffix(".html")
    if page.exists() and page.stat().st_mtime >= notebook.stat().st_mtime:
        return ""
    try:
        write_whole(page, make_html(notebook, source))
    except Exception as error:  # nbconvert raises what it likes; the report names it and goes on
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def describe(name: str, results: Path, source: Path) -> dict[str, Any]:
    """Read what a notebook says of itself: as it was executed, or else as it is committed.

    Args:
        name: Of the notebook, such as `02_toy_analysis`.
        results: The folder of the run.
        source: The folder of the committed notebooks.

    Returns:
        `name`; `state` (`done`, `failed` or `missing`) and `problem` (a sentence, or ""); `title`;
        `section` and `claims`, as in its metadata; `parameters` and `duration` of the run;
        `file`, `page` and `log`, relative to `results` ("" where there is none); `cells`.
    """
    folder = results / "notebooks"
    done, failed = folder / f"{name}.ipynb", folder / f"{name}.failed.ipynb"
    state = "failed" if failed.exists() else "done" if done.exists() else "missing"
    executed = {"failed": failed, "done": done}.get(state)
    problem = executed and convert(executed, source)
    if problem:
        state = "failed"
    notebook = _read(executed) or _read(source / f"{name}.ipynb") or {"metadata": {}, "cells": []}
    run = notebook["metadata"].get("papermill", {}) if executed else {}
    entry = notebook["metadata"].get("ubn", {})
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    headings = re.findall(r"^# +(.+)", "\n".join([*cells, f"# {name}"]), re.MULTILINE)
    page = executed.with_suffix(".html") if executed else None
    log = results / "logs" / f"{name}.log"
    return {
        "name": name,
        "state": state,
        "problem": problem or "",
        "title": headings[0],
        "section": entry.get("section", ""),
        "claims": entry.get("claims", []),
        "parameters": {k: v for k, v in run.get("parameters", {}).items() if k not in HIDDEN},
        "duration": duration(run["duration"]) if run.get("duration") else "",
        "file": f"notebooks/{executed.name}" if executed else "",
        "page": f"notebooks/{page.name}" if page and page.exists() else "",
        "log": f"logs/{log.name}" if log.exists() else "",
        "cells": cells,
    }


def _read(path: Path | None) -> dict[str, Any] | None:
    try:
        return read_notebook(path) if path and path.exists() else None
    except ValueError:
        return None


def discussed(
    claim: str, place: str, notebooks: list[dict], results: Path
) -> dict[str, str] | None:
    """Find where a claim is discussed: in the first notebook that is registered for it.

    The section is the one of the figure or equation that the claim's place names, or else the
    notebook's "Paper against ours".

    Returns:
        `text` and `link`, with the section's anchor; None where no notebook has been executed.
    """
    notebook = next((n for n in notebooks if claim in n["claims"] and n["page"]), None)
    if notebook is None:
        return None
    page = (results / notebook["page"]).read_text(encoding="utf-8")
    headings = {
        anchor: unescape(re.sub(r"<[^>]+>", "", text))
        for anchor, text in re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', page, re.S)
    }
    named = re.findall(r"(?:figure|equation) \d+", place, re.IGNORECASE)
    for words in (*named, OURS):
        for anchor, text in headings.items():
            if re.search(rf"\b{words}\b", text, re.IGNORECASE):
                link = f"{notebook['page']}#{unescape(anchor)}"
                return {"text": f"{notebook['name']}: {text}", "link": link}
    return {"text": notebook["name"], "link": notebook["page"]}


def deviations(notebook: dict[str, Any], source: Path, results: Path) -> str:
    """Return a notebook's section "Deviations from the paper" as HTML; "" if it has none."""
    text = "\n\n".join(notebook["cells"])
    found = re.search(r"^## Deviations from the paper\s*\n(.*?)(?=^#{1,2} |\Z)", text, re.M | re.S)
    return markdown_to_html(found[1], source, results) if found else ""
