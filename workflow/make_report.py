"""Write a run's pages: each executed notebook as HTML, and index.html with figures and facts."""

import argparse
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import yaml
from make_html import make_html
from read_notebook import read_notebook
from terminal import duration

PACKAGES = ("torch", "numpy", "scipy", "pandas", "matplotlib", "papermill", "snakemake")
# Shown once for the whole run, or not at all: it is where this page lies.
HIDDEN = ("results",)


def describe_notebook(path: Path) -> dict[str, Any]:
    """Read what an executed notebook says of itself.

    Returns:
        `name`, `title` (its first heading), `section` (of the paper), `parameters` (all that were
        injected) and `duration` (as text).
    """
    notebook = read_notebook(path)
    run = notebook["metadata"].get("papermill", {})
    headings = (
        line.lstrip("# ")
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown"
        for line in cell["source"].splitlines()
        if line.startswith("# ")
    )
    return {
        "name": path.stem,
        "title": next(headings, path.stem),
        "section": notebook["metadata"].get("ubn", {}).get("section", ""),
        "parameters": {k: v for k, v in run.get("parameters", {}).items() if k not in HIDDEN},
        "duration": duration(run.get("duration") or 0),
    }


def group_figures(folder: Path, names: list[str]) -> dict[str, list[dict[str, str]]]:
    """Give each figure to the notebook whose number its file name begins with.

    Args:
        folder: Holds NAME.png, with NAME.pdf and NAME.csv beside it.
        names: The notebooks, such as `02_toy_analysis`.

    Returns:
        For each notebook, and "" for all other figures, a list of figures: `name` and the file
        names of what exists under `png`, `pdf` and `csv`.
    """
    groups: dict[str, list] = {name: [] for name in [*names, ""]}
    by_number = {name.split("_")[0]: name for name in names}
    for png in sorted(folder.glob("*.png")):
        figure = {"name": png.stem}
        for kind in ("png", "pdf", "csv"):
            if png.with_suffix(f".{kind}").exists():
                figure[kind] = png.with_suffix(f".{kind}").name
        groups[by_number.get(png.stem.split("_")[0], "")].append(figure)
    return groups


def output(*command: str) -> str:
    """Run a command that may not be there; return what it prints, or "" if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def revision(root: Path) -> str:
    """Name the git revision of a folder, with "+ changes" where files differ; "" without git."""
    commit = output("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = commit and output("git", "-C", str(root), "status", "--porcelain")
    return commit + (" + changes" if changed else "")


def machine() -> dict[str, str]:
    """Describe the machine: system, processor cores, graphics processors, versions."""
    facts = {
        "System": platform.platform(),
        "Processor cores": str(os.cpu_count()),
        "Graphics": output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def make_index(profile: Path, results: Path, notebooks: list[Path], facts: dict[str, str]) -> str:
    """Fill the template.

    Args:
        profile: The profile's YAML file.
        results: The folder that holds `figures/` and `notebooks/`, where the page will lie.
        notebooks: The executed notebooks, in order.
        facts: More rows for the table of run facts.
    """
    described = [describe_notebook(path) for path in notebooks]
    kitti_root = next(filter(None, (n["parameters"].get("kitti_root") for n in described)), "")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2").render(
        profile=profile.stem,
        description=yaml.safe_load(profile.read_text(encoding="utf-8"))["description"],
        notebooks=described,
        figures=group_figures(results / "figures", [n["name"] for n in described]),
        facts={"Depth data": kitti_root or "synthetic drives"} | facts,
    )


def main() -> None:
    """Write the pages of the run named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("notebooks", type=Path, nargs="*")
    args = parser.parse_args()
    for notebook in args.notebooks:
        notebook.with_suffix(".html").write_text(make_html(notebook), encoding="utf-8")
    facts = {"Finished": time.strftime("%Y-%m-%d %H:%M %z"), "Revision": revision(Path.cwd())}
    facts |= machine()
    page = make_index(args.profile, args.results, sorted(args.notebooks), facts)
    (args.results / "index.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
