"""Check, before anything runs, that a profile and a data folder can be used.

A profile is `profiles/NAME.yaml`: `description`, a sentence for the reader, and `notebooks`, the
parameters of each notebook that it runs, where these differ from the notebook's defaults. All
functions work in the project's folder and raise `ProfileError` with one sentence.
"""

import ast
import json
import os
from pathlib import Path
from typing import Any

import yaml

from experiments.common.files import NothingTwice

# Set by the workflow for every run, so that no profile can send results astray.
RESERVED = ("results", "kitti_root", "profile")
# Those of experiments/depth/packing.py, which takes seconds to import.
SPLITS = ("paper_standin", "eigen", "by_drive")
# A relative folder in a profile is meant as the notebook reads it: against notebooks/.
FOLDERS = ("data_root", "study")
ENTRIES = ("synthetic", "frames", "net")  # whose entries are all in their defaults
PAIRS = ("size", "batch")


class ProfileError(ValueError):
    """One sentence for the user: what is wrong, and what is there instead."""


def read_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook with the source of each cell as one string (nbformat takes seconds)."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            cell["source"] = "".join(cell["source"])
    except (ValueError, KeyError, TypeError):
        raise ProfileError(
            f"{path} is not a notebook of format 4; restore it, or save it again in Jupyter."
        ) from None
    return notebook


def notebook_names(root: Path) -> list[str]:
    """List the project's notebooks (`NN_section`), in order."""
    return sorted(path.stem for path in (root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def defaults(notebook: Path) -> dict[str, Any]:
    """Read the values in a notebook's `parameters` cell.

    Parsed as Python: `papermill.inspect_notebook` goes line by line and silently leaves out a
    parameter whose comment or text holds an equals sign.
    """
    cells = read_notebook(notebook)["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ProfileError(
            f"{notebook} has {len(tagged)} cells tagged 'parameters'; it must have one."
        )
    values = {}
    for statement in ast.parse(tagged[0]["source"]).body:
        try:
            values[statement.targets[0].id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            raise ProfileError(
                f"{notebook}: '{ast.unparse(statement)}' in the parameters cell must give a name "
                "a plain number, string, list or dictionary; compute in a later cell."
            ) from None
    return values


def load_profile(name: str, root: Path) -> dict[str, Any]:
    """Read `profiles/NAME.yaml` and check its shape."""
    path = root / "profiles" / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(path.stem for path in path.parent.glob("*.yaml"))) or "none"
        raise ProfileError(f"There is no profile '{name}' in {path.parent}; there are: {there}.")
    try:
        profile = yaml.load(path.read_text(encoding="utf-8"), NothingTwice)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        why = getattr(error, "problem", None) or "it is not in UTF-8"
        raise ProfileError(f"{path}{line} is not valid YAML ({why}); correct that.") from None
    if not isinstance(profile, dict) or set(profile) != {"description", "notebooks"}:
        raise ProfileError(f"{path} must have the keys description and notebooks, and no others.")
    notebooks = profile["notebooks"]
    if not isinstance(notebooks, dict) or not all(isinstance(p, dict) for p in notebooks.values()):
        raise ProfileError(
            f"{path}: notebooks must map each notebook's name to its parameters, such as "
            "{seeds: 1}, or {} for the defaults."
        )
    return profile


def run_parameters(
    name: str, root: Path, results: Path, kitti_root: str = "", split: str = ""
) -> dict[str, dict]:
    """Check a profile against the notebooks; return all parameters of each, folders absolute.

    A `split` that is named takes the place of the profile's. That of synthetic drives is none for
    KITTI's: it would train on Eigen test drives without anyone having asked for that. Its frames
    are a domain of their own, since their records would answer claims about synthetic drives.
    """
    fixed = dict(zip(RESERVED, (str(results), kitti_root, name), strict=True))
    known = notebook_names(root)
    complete = {}
    for notebook, chosen in load_profile(name, root)["notebooks"].items():
        if notebook not in known:
            raise ProfileError(
                f"profiles/{name}.yaml names the notebook '{notebook}', which is not in "
                f"notebooks/; there are: {', '.join(known) or 'none'}."
            )
        values = defaults(root / "notebooks" / f"{notebook}.ipynb")
        _check(chosen, values, where=f"profiles/{name}.yaml: {notebook}")
        if kitti_root and "domain" in values:
            chosen = chosen | {"domain": "kitti"}
        for key, value in chosen.items():
            values[key] = values[key] | value if isinstance(value, dict) else value
        values |= {key: fixed[key] for key in fixed if key in values}
        for key in set(FOLDERS) & set(values):
            values[key] = os.path.abspath(root / "notebooks" / values[key])
        if "split" in values:
            if kitti_root and not split and values["split"] == "by_drive":
                raise ProfileError(
                    f"Profile '{name}' splits synthetic drives by drive: with KITTI_ROOT, name the "
                    f"split, {', '.join(f'SPLIT={known}' for known in SPLITS)}."
                )
            values["split"] = split or values["split"]
            if values["split"] not in SPLITS:
                raise ProfileError(
                    f"There is no split '{values['split']}'; there are: {', '.join(SPLITS)}."
                )
        complete[notebook] = values
    return complete


def _check(chosen: dict[str, Any], values: dict[str, Any], where: str) -> None:
    """Check that each chosen parameter is one of a notebook's, and of the type of its default."""
    for key, value in chosen.items():
        if key in RESERVED:
            raise ProfileError(f"{where}: {key} is set by the workflow; leave it out.")
        if key not in values:
            there = ", ".join(name for name in values if name not in RESERVED) or "none"
            raise ProfileError(f"{where} has no parameter '{key}'; it has: {there}.")
        no_pair = key in PAIRS and isinstance(value, list) and len(value) != 2
        if no_pair or not _alike(value, values[key]):
            raise ProfileError(
                f"{where}: {key} is {value!r} ({type(value).__name__}), but its default is "
                f"{values[key]!r} ({type(values[key]).__name__}); write it the same way: 1.0e-3, "
                "not 1e-3, is a number in YAML, and where the default is above 0, all must be."
            )
        if key in ENTRIES and isinstance(value, dict):
            _check(value, values[key], f"{where}: {key}")


def _alike(value: Any, default: Any) -> bool:
    """Say whether a value has its default's type and, of numbers, sign; a list's entries too."""
    if type(value) is not type(default):
        return False
    if isinstance(default, list) and default:
        return all(any(_alike(entry, known) for known in default) for entry in value)
    return not isinstance(default, int | float) or (value >= 0 and (value > 0 or default == 0))


def check_kitti(folder: str) -> str:
    """Check that a folder holds KITTI Raw drives; return it as an absolute path ("" stays "")."""
    if not folder:
        return ""
    path = Path(os.path.abspath(Path(folder).expanduser()))
    if not any(path.glob("*/*_drive_*_sync")):
        there = "is not a folder"
        if path.is_dir():
            names = sorted(entry.name for entry in path.iterdir())[:8]
            there = f"holds: {', '.join(names) or 'nothing'}"
        raise ProfileError(
            f"KITTI_ROOT must be the folder above the dates of drives (DATE/DATE_drive_NNNN_sync), "
            f"and {path} {there}."
        )
    return str(path)
