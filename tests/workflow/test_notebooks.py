"""Guards: every committed notebook is executed, clean, small, registered, and the quick profile.

Each guard is a function notebook -> list of complaints.
"""

import copy
import functools
import re

import nbformat
import pytest
import yaml

from parameters import defaults, load_profile, notebook_names
from small_project import ROOT

MOST_BYTES = 2_000_000  # pictures have twice the pixels that a page shows
MOST_CELLS = 45
MOST_LINES, MOST_LINES_OF_DEFINITION = 15, 40
FOLDED = {"setup", "cloud-setup"}  # cells of imports and bookkeeping, nothing to read
TIMING = ("execution", "papermill")
MARKED = re.compile(r"<!-- = .*? -->.*?<!-- / -->", re.DOTALL)  # filled from records
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


def has_few_cells(notebook) -> list[str]:
    count = len(notebook.cells) - 1  # the cell for the cloud is nothing to read
    return [f"{count} cells, more than {MOST_CELLS}"] if count > MOST_CELLS else []


def has_short_cells(notebook) -> list[str]:
    complaints = []
    for cell in code_cells(notebook):
        if "parameters" in cell.metadata.get("tags", []):
            continue  # a list, of one setting a line
        defines = re.search(r"^(async def|def|class) ", cell.source, re.MULTILINE)
        long = defines or not FOLDED.isdisjoint(cell.metadata.get("tags", []))
        most = MOST_LINES_OF_DEFINITION if long else MOST_LINES
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
    """Look for the folded cell of the first notebook, the same everywhere, after the title."""
    first, cell = committed(NAMES[0]).cells[1], notebook.cells[1]
    if "cloud-setup" not in cell.metadata.get("tags", []) or cell.outputs:
        return ["the second cell must be the one tagged 'cloud-setup', which puts out nothing here"]
    same = (cell.source, cell.metadata) == (first.source, first.metadata)
    return [] if same else [f"the cell tagged 'cloud-setup' differs from {NAMES[0]}'s"]


def texts(notebook):
    """Everything a reader sees as text: sources, and the outputs but for pictures."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            for kind, data in output.get("data", {}).items():
                if kind.startswith("text/"):
                    yield data


def teaches(notebook) -> list[str]:
    """Look for the summary at the top, the exercises at the end, and imports that are folded."""
    complaints = []
    opening = "".join(cell.source for cell in notebook.cells[:3])
    if "| the paper says | we find" not in opening or "How sure" not in opening:
        complaints.append("no summary of what the paper says and what is found in the first cells")
    if numbers := re.findall(r"\d\.\d{2,}", MARKED.sub("", opening)):
        complaints.append(f"the summary has numbers that no record fills: {', '.join(numbers)}")
    _, _, exercises = notebook.cells[-1].source.partition("## Exercises")
    asked = re.findall(r"^\d\. ", exercises, re.MULTILINE)
    if len(asked) not in (2, 3) or exercises.count("*Hint:") != len(asked):
        complaints.append("the last cell must have two or three exercises, each with a *Hint:*")
    for cell in code_cells(notebook):
        folded = not FOLDED.isdisjoint(cell.metadata.get("tags", []))
        if folded and not cell.metadata.get("jupyter", {}).get("source_hidden"):
            complaints.append(f"cell {cell.id} is tagged as folded and is not hidden")
        if not folded and re.search(r"^(from \S+ )?import ", cell.source, re.MULTILINE):
            complaints.append(f"cell {cell.id} imports; the folded cell is the place for that")
    return complaints


def has_no_machine_paths(notebook) -> list[str]:
    found = sorted({hit for text in texts(notebook) for hit in MACHINE_PATH.findall(text)})
    return [f"names paths of a machine: {', '.join(found)}"] if found else []


def is_registered(notebook) -> list[str]:
    """Look for `metadata.ubn`: the paper's section, and claims that the ledger knows."""
    entry = notebook.metadata.get("ubn", {})
    ledger = {claim["id"] for claim in yaml.safe_load((ROOT / "claims.yaml").read_text())}
    complaints = [f"claims.yaml has no claim {c!r}" for c in entry["claims"] if c not in ledger]
    return complaints + ([] if entry["section"] else ["metadata.ubn.section names no section"])


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
    is_registered,
]


NAMES = notebook_names(ROOT)


@functools.cache  # nobody may change it
def committed(name: str):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def test_each_claim_is_discussed_in_a_notebook():
    """The report links a claim to the first notebook that names it in `metadata.ubn`."""
    named = {claim for name in NAMES for claim in committed(name).metadata["ubn"]["claims"]}
    ledger = {claim["id"] for claim in yaml.safe_load((ROOT / "claims.yaml").read_text())}
    assert ledger - named == set()


def test_there_are_notebooks_and_all_are_numbered():
    assert NAMES
    assert NAMES == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_notebook(name, guard):
    assert guard(committed(name)) == []


@pytest.mark.parametrize("name", NAMES[:-1])  # the last one is all summary
def test_a_notebook_teaches(name):
    assert teaches(committed(name)) == []


def test_what_does_not_teach_is_told():
    notebook = copy.deepcopy(committed(NAMES[0]))
    notebook.cells[0].source = "# A title, and 0.123 that nobody filled"
    notebook.cells[-1].source = "## Exercises\n\n1. One without a hint."
    code_cells(notebook)[-1].source = "import this"
    told = teaches(notebook)
    words = ("no summary", "no record fills: 0.123", "two or three exercises", "imports")
    assert len(told) == len(words)
    assert all(word in complaint for word, complaint in zip(words, told, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_the_quick_profile(name):
    assert load_profile("quick", ROOT)["notebooks"][name] == {}
    values = defaults(ROOT / "notebooks" / f"{name}.ipynb")
    assert values["results"] == "../results/quick"
    assert values.get("kitti_root", "") == ""


@pytest.mark.parametrize("profile", ["quick", "standard", "paper"])
def test_profile_names_every_notebook(profile):
    assert sorted(load_profile(profile, ROOT)["notebooks"]) == NAMES


def test_the_workflow_runs_the_last_notebook_last():
    snakefile = (ROOT / "workflow" / "Snakefile").read_text()
    assert re.search(r'^LAST = "(.*)"', snakefile, re.M)[1] == NAMES[-1]


@pytest.mark.parametrize("profile", ["standard", "paper"])
def test_a_profile_holds_only_what_differs_from_the_defaults(profile):
    for name, chosen in load_profile(profile, ROOT)["notebooks"].items():
        values = defaults(ROOT / "notebooks" / f"{name}.ipynb")
        assert [key for key in chosen if chosen[key] == values[key]] == [], name
