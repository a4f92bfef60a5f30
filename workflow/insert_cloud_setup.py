"""Put the cell that makes a notebook run in the cloud into every notebook, or refresh it there.

Its text is `notebooks/cloud_setup.py`. It comes after the title. Run this after a change of it,
and then `make notebooks`.
"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
TAG = "cloud-setup"
# JupyterLab and Colab fold the cell; the website, where nothing runs, leaves it out.
METADATA = {
    "cellView": "form",
    "jupyter": {"source_hidden": True},
    "tags": [TAG, "remove-cell"],
}


def cell_source(root: Path = ROOT) -> str:
    """Return the cell's text."""
    return (root / "notebooks" / "cloud_setup.py").read_text(encoding="utf-8").rstrip()


def insert(notebook: dict, source: str) -> None:
    """Put the cell after a notebook's first one; where it is there and the same, change nothing."""
    cells = notebook["cells"]
    tagged = [cell for cell in cells if TAG in cell["metadata"].get("tags", [])]
    lines = source.splitlines(keepends=True)
    if [(cell["source"], cell["metadata"]) for cell in tagged] == [(lines, METADATA)]:
        return
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": TAG,
        "metadata": METADATA,
        "outputs": [],
        "source": lines,
    }
    rest = [cell for cell in cells if cell not in tagged]
    notebook["cells"] = [*rest[:1], cell, *rest[1:]]


def main() -> None:
    """Do so in all notebooks, and name those that changed."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = json.loads(before)
        insert(notebook, cell_source())
        after = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
