"""Small projects for the workflow: notebooks, a profile, and one that makes three short runs."""

from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "results" / "standard"
SIZE = {"domains": ["spiral"], "ingredients": ["gradient"], "seeds": 1, "steps": 3}
FIRST = f"""results = "../results/quick"
profile = "quick"
study = "{STUDY}"
domains = ["spiral"]
ingredients = ["gradient"]
seeds = 2
steps = 2"""
READ = """from pathlib import Path
from experiments.common.records import read_records
found = read_records(Path(results) / "records", "ablation")
assert len(found) == 3 and set(found["setting.steps"]) == {steps}, found"""


FRAMES = {
    "data_root": "../data/small", "split": "eigen", "net": {"width": 0.1, "levels": 4},
    "frames": {"cameras": [2, 3], "size": [64, 128], "test_every": 1}, "label_every": [2],
    "batch": [2, 2], "steps": 2,
}  # fmt: skip


def write_notebook(path: Path, *sources: str) -> None:
    """Write a notebook: a heading with a formula, a parameters cell, code."""
    cells = [new_markdown_cell(f"# About {path.stem}\n\n$$\\frac{{a}}{{b}} \\tag{{1}}$$")]
    cells += [new_code_cell(source) for source in sources]
    cells[1].metadata.tags = ["parameters"]
    notebook = new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)


def write_profile(root: Path, notebooks, name: str = "quick") -> None:
    (root / "profiles").mkdir(exist_ok=True)
    text = yaml.safe_dump({"description": "For <tests>.", "notebooks": notebooks})
    (root / "profiles" / f"{name}.yaml").write_text(text)


@pytest.fixture
def ablation_project(tmp_path):
    """A project of one notebook, which needs three short runs."""
    write_notebook(tmp_path / "notebooks" / "04_ablation.ipynb", FIRST, READ)
    write_profile(tmp_path, {"04_ablation": SIZE})
    for name in ("claims.yaml", "statements.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


@pytest.fixture
def depth_project(tmp_path):
    """A project of the third notebook and a profile `small`."""
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    write_profile(tmp_path, {"03_depth_experiments": FRAMES}, name="small")
    return tmp_path
