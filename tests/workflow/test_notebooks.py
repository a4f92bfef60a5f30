"""Guards: every committed notebook is executed, clean, small, registered, and the quick profile.

Each guard is a function notebook -> list of complaints, tried here on good and bad notebooks.
"""

import re

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from check_profile import RESERVED, defaults, load_profile, notebook_names
from insert_cloud_setup import cell_source, insert
from small_project import ROOT

MOST_BYTES = 1_500_000
MOST_CELLS = 45
MOST_LINES, MOST_LINES_OF_DEFINITION = 15, 40
TIMING = ("execution", "papermill")
# Folders of somebody's machine, and the kernel's temporary files.
MACHINE_PATH = re.compile(
    r"(?<![\w.])/(?:home|Users|root|work|tmp|private|mnt|opt)/[\w.-]+|\b[A-Z]:\\\\?\w"
)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_executed_in_order(notebook) -> list[str]:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts == list(range(1, len(counts) + 1)):
        return []
    return [f"code cells are numbered {counts}; run the notebook from top to bottom"]


def has_no_errors(notebook) -> list[str]:
    return [
        f"cell [{cell.execution_count}] has an output of type {output.get('name', 'error')}"
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def has_one_parameters_cell(notebook) -> list[str]:
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) == 1 and tagged[0].cell_type == "code":
        return []
    return [f"{len(tagged)} cells are tagged 'parameters'; it must be one code cell"]


def has_python3_kernel(notebook) -> list[str]:
    name = notebook.metadata.get("kernelspec", {}).get("name")
    return [] if name == "python3" else [f"the kernel is {name!r}, not 'python3'"]


def has_no_timing(notebook) -> list[str]:
    places = [notebook.metadata, *(cell.metadata for cell in notebook.cells)]
    found = sorted({key for place in places for key in TIMING if key in place})
    return [f"metadata holds {', '.join(found)}; refresh with make notebooks"] if found else []


def has_no_widgets(notebook) -> list[str]:
    """A widget saved in a notebook is an empty box for whoever has no kernel behind it."""
    kinds = {
        kind
        for cell in code_cells(notebook)
        for output in cell.outputs
        for kind in output.get("data", {})
    }
    saved = "widgets" in notebook.metadata or any("widget" in kind for kind in kinds)
    return ["holds widgets; refresh with make notebooks"] if saved else []


def is_small(notebook) -> list[str]:
    size = len(nbformat.writes(notebook).encode())
    return [f"{size} bytes, more than {MOST_BYTES}"] if size > MOST_BYTES else []


def is_cloud_setup(cell) -> bool:
    return "cloud-setup" in cell.metadata.get("tags", [])


def has_few_cells(notebook) -> list[str]:
    """The cell for the cloud, the same everywhere, is nothing to read."""
    count = sum(not is_cloud_setup(cell) for cell in notebook.cells)
    return [f"{count} cells, more than {MOST_CELLS}"] if count > MOST_CELLS else []


def has_short_cells(notebook) -> list[str]:
    complaints = []
    for cell in code_cells(notebook):
        defines = re.search(r"^(async def|def|class) ", cell.source, re.MULTILINE)
        most = MOST_LINES_OF_DEFINITION if defines else MOST_LINES
        count = len(cell.source.splitlines())
        if count > most:
            complaints.append(f"cell [{cell.execution_count}] has {count} lines, more than {most}")
    return complaints


def has_no_trailing_semicolon(notebook) -> list[str]:
    return [
        f"cell [{cell.execution_count}] ends with a semicolon"
        for cell in code_cells(notebook)
        if cell.source.rstrip().endswith(";")
    ]


def has_cloud_setup(notebook) -> list[str]:
    """Look for the cell of `notebooks/cloud_setup.py`, after the title and silent."""
    positions = [i for i, cell in enumerate(notebook.cells) if is_cloud_setup(cell)]
    if positions != [1]:
        return [f"cells {positions} are tagged 'cloud-setup'; it must be the second cell alone"]
    cell = notebook.cells[1]
    complaints = []
    if cell.source != cell_source():
        complaints.append("the cell differs from notebooks/cloud_setup.py")
    if cell.cell_type != "code" or cell.outputs:
        complaints.append("the cell must be code that puts out nothing here")
    advice = "run workflow/insert_cloud_setup.py and make notebooks"
    return [f"{complaint}; {advice}" for complaint in complaints]


def texts(notebook):
    """Everything a reader sees as text: sources, and the outputs but for pictures."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            for kind, data in output.get("data", {}).items():
                if kind.startswith("text/"):
                    yield data


def has_no_machine_paths(notebook) -> list[str]:
    found = sorted({hit for text in texts(notebook) for hit in MACHINE_PATH.findall(text)})
    return [f"names paths of a machine: {', '.join(found)}"] if found else []


def is_registered(notebook, claims: set[str]) -> list[str]:
    """Look for `metadata.ubn`: the paper's section, and claims that the ledger knows."""
    entry = notebook.metadata.get("ubn", {})
    complaints = []
    if not isinstance(entry.get("section"), str) or not entry["section"].strip():
        complaints.append("metadata.ubn.section must name the paper's section")
    if not isinstance(entry.get("claims"), list):
        complaints.append("metadata.ubn.claims must be a list of ids in claims.yaml")
    else:
        unknown = [claim for claim in entry["claims"] if claim not in claims]
        complaints += [f"claims.yaml has no claim {claim!r}" for claim in unknown]
    return complaints


GUARDS = [
    is_executed_in_order,
    has_no_errors,
    has_one_parameters_cell,
    has_python3_kernel,
    has_no_timing,
    has_no_widgets,
    is_small,
    has_few_cells,
    has_short_cells,
    has_no_trailing_semicolon,
    has_no_machine_paths,
    has_cloud_setup,
]


# The guards on the project's notebooks.

NAMES = notebook_names(ROOT)


def committed(name: str):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def ledger() -> set[str]:
    return {claim["id"] for claim in yaml.safe_load((ROOT / "claims.yaml").read_text())}


def test_there_are_notebooks_and_all_are_numbered():
    assert NAMES
    assert NAMES == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_notebook(name, guard):
    assert guard(committed(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_registered(name):
    assert is_registered(committed(name), ledger()) == []


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_the_quick_profile(name):
    values = defaults(ROOT / "notebooks" / f"{name}.ipynb")
    own = {key: values[key] for key in values if key not in RESERVED}
    assert load_profile("quick", ROOT)["notebooks"][name] == own
    assert values["results"] == "../results/quick"
    assert values.get("kitti_root", "") == ""


@pytest.mark.parametrize("profile", ["quick", "standard", "paper"])
def test_profile_names_every_notebook(profile):
    assert sorted(load_profile(profile, ROOT)["notebooks"]) == NAMES


def test_the_workflow_runs_the_last_notebook_last():
    snakefile = (ROOT / "workflow" / "Snakefile").read_text()
    assert re.search(r'^LAST = "(.*)"', snakefile, re.M)[1] == NAMES[-1]


# The guards on notebooks made for them.


def good():
    """A notebook with which every guard is content."""
    cells = [
        new_markdown_cell("# A title\nwith 1/2 and and/or, https://host.org/home/page"),
        new_code_cell(cell_source(), execution_count=1, metadata={"tags": ["cloud-setup"]}),
        new_code_cell("steps = 3", execution_count=2, metadata={"tags": ["parameters"]}),
        new_code_cell(
            "steps",
            execution_count=3,
            outputs=[
                new_output("execute_result", {"text/plain": "3", "image/png": "/home/AAA"}),
                new_output("stream", name="stdout", text="../results/quick"),
            ],
        ),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3"}
    notebook.metadata.ubn = {"section": "2", "claims": ["a"]}
    return notebook


def skip_a_count(notebook):
    notebook.cells[3].execution_count = 4


def strip_counts(notebook):
    notebook.cells[2].execution_count = notebook.cells[3].execution_count = None


def add_stderr(notebook):
    notebook.cells[3].outputs.append(new_output("stream", name="stderr", text="warning"))


def add_error(notebook):
    notebook.cells[3].outputs.append(new_output("error", ename="E", evalue="v", traceback=[]))


def untag(notebook):
    notebook.cells[2].metadata.tags = []


def tag_twice(notebook):
    notebook.cells[3].metadata.tags = ["parameters"]


def change_kernel(notebook):
    notebook.metadata.kernelspec.name = "my-venv"


def add_cell_timing(notebook):
    notebook.cells[3].metadata.execution = {"iopub.execute_input": "2026-01-01T00:00:00Z"}


def add_papermill(notebook):
    notebook.metadata.papermill = {"duration": 1.0}


def show_widget(notebook):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    notebook.cells[3].outputs[0].data |= view


def save_widgets(notebook):
    notebook.metadata.widgets = {}


def grow(notebook):
    notebook.cells[3].outputs[0].data["image/png"] = "A" * MOST_BYTES


def add_cells(notebook):
    notebook.cells += [new_markdown_cell("more") for _ in range(MOST_CELLS)]


def lengthen(notebook):
    notebook.cells[3].source = "a = 1\n" * 16


def lengthen_definition(notebook):
    notebook.cells[3].source = "def f():\n" + "    a = 1\n" * 40


def add_semicolon(notebook):
    notebook.cells[3].source = "plot();\n"


def print_home(notebook):
    notebook.cells[3].outputs[1].text = "saved /home/me/figure.png"


def show_temporary_file(notebook):
    notebook.cells[3].outputs[0].data["text/html"] = "<p>/tmp/ipykernel_1/2.py</p>"


def leave_cloud_setup_out(notebook):
    del notebook.cells[1]
    notebook.cells[1].execution_count, notebook.cells[2].execution_count = 1, 2


def move_cloud_setup(notebook):
    notebook.cells[0], notebook.cells[1] = notebook.cells[1], notebook.cells[0]


def change_cloud_setup(notebook):
    notebook.cells[1].source += "\n"


def show_cloud_setup(notebook):
    notebook.cells[1].outputs = [new_output("stream", name="stdout", text="Fetching")]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_guard_accepts_a_good_notebook(guard):
    assert guard(good()) == []


@pytest.mark.parametrize(
    ("spoil", "guard"),
    [
        (skip_a_count, is_executed_in_order),
        (strip_counts, is_executed_in_order),
        (add_stderr, has_no_errors),
        (add_error, has_no_errors),
        (untag, has_one_parameters_cell),
        (tag_twice, has_one_parameters_cell),
        (change_kernel, has_python3_kernel),
        (add_cell_timing, has_no_timing),
        (add_papermill, has_no_timing),
        (show_widget, has_no_widgets),
        (save_widgets, has_no_widgets),
        (grow, is_small),
        (add_cells, has_few_cells),
        (lengthen, has_short_cells),
        (lengthen_definition, has_short_cells),
        (add_semicolon, has_no_trailing_semicolon),
        (print_home, has_no_machine_paths),
        (show_temporary_file, has_no_machine_paths),
        (leave_cloud_setup_out, has_cloud_setup),
        (move_cloud_setup, has_cloud_setup),
        (change_cloud_setup, has_cloud_setup),
        (show_cloud_setup, has_cloud_setup),
    ],
)
def test_guard_refuses_a_bad_notebook(spoil, guard):
    notebook = good()
    spoil(notebook)
    assert len(guard(notebook)) == 1


def test_a_definition_may_be_longer():
    notebook = good()
    notebook.cells[3].source = "def f():\n" + "    a = 1\n" * 30
    assert has_short_cells(notebook) == []


def test_cloud_setup_is_inserted_refreshed_and_then_left_alone():
    title = {"cell_type": "markdown", "metadata": {}, "source": ["# A title"]}
    last = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["a = 1"]}
    notebook = {"cells": [title, last]}
    insert(notebook, "b = 1\nc = 2")
    assert notebook["cells"][::2] == [title, last]
    assert notebook["cells"][1]["source"] == ["b = 1\n", "c = 2"]

    notebook["cells"][1]["execution_count"] = 1
    insert(notebook, "b = 1\nc = 2")
    assert notebook["cells"][1]["execution_count"] == 1

    insert(notebook, "b = 2")
    assert notebook["cells"][::2] == [title, last]
    assert notebook["cells"][1]["source"] == ["b = 2"]
    assert notebook["cells"][1]["execution_count"] is None


@pytest.mark.parametrize(
    ("entry", "complaints"),
    [
        ({"section": "2", "claims": []}, 0),
        ({"section": "2", "claims": ["a", "b"]}, 1),
        ({"section": "", "claims": ["a"]}, 1),
        ({}, 2),
    ],
)
def test_registration(entry, complaints):
    notebook = good()
    notebook.metadata.ubn = entry
    assert len(is_registered(notebook, {"a"})) == complaints
