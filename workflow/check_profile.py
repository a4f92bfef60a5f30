"""Check, before anything runs, that a profile and a data folder can be used.

A profile is `profiles/NAME.yaml`::

    description: one sentence for the reader
    notebooks:
      01_method: {}
      02_toy_analysis: {epochs: 200}

It runs the notebooks that it names; a parameter that it leaves out keeps the notebook's default.
All functions work on the project in `root` and raise `ProfileError` with one sentence.
"""

import ast
import os
from pathlib import Path
from typing import Any

import yaml

from read_notebook import read_notebook

# Set by the workflow for every run, so that no profile can send results astray.
RESERVED = ("results", "kitti_root", "profile")
# A relative folder in a profile is meant as the notebook reads it: against notebooks/.
FOLDERS = ("data_root", "study")


class ProfileError(Exception):
    """One sentence for the user: what is wrong, and what is there instead."""


def notebook_names(root: Path) -> list[str]:
    """List the project's notebooks (`NN_section`), in order."""
    return sorted(path.stem for path in (root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def defaults(notebook: Path) -> dict[str, Any]:
    """Read the values in a notebook's `parameters` cell.

    Parsed as Python: `papermill.inspect_notebook` goes line by line and silently leaves out a
    parameter whose comment or text holds an equals sign.

    Raises:
        ProfileError: Not one such cell, or a default that is no plain value (it could be neither
            checked nor injected).
    """
    try:
        cells = read_notebook(notebook)["cells"]
    except ValueError as error:
        raise ProfileError(str(error)) from None
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ProfileError(
            f"{notebook} has {len(tagged)} cells tagged 'parameters'; it must have one."
        )
    values = {}
    for statement in ast.parse(tagged[0]["source"]).body:
        try:
            targets = getattr(statement, "targets", None) or [statement.target]
            values |= {target.id: ast.literal_eval(statement.value) for target in targets}
        except (AttributeError, ValueError):
            raise ProfileError(
                f"{notebook}: '{ast.unparse(statement)}' in the parameters cell must give a name "
                "a plain number, string, list or dictionary; compute in a later cell."
            ) from None
    return values


def same_type(value: Any, default: Any) -> bool:
    """Tell whether a value can stand for a default: the same type, in lists entry by entry."""
    if default is None:
        return True
    if type(value) is not type(default):
        return False
    if isinstance(default, list) and default:
        return all(any(same_type(entry, known) for known in default) for entry in value)
    return True


def load_profile(name: str, root: Path) -> dict[str, Any]:
    """Read `profiles/NAME.yaml` and check its shape.

    Returns:
        The profile: `description`, a string, and `notebooks`, parameters by notebook name.
    """
    folder = root / "profiles"
    there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ProfileError(f"There is no profile '{name}' in {folder}; there are: {there}.")
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ProfileError(f"{path}{line} is not valid YAML; correct that line.") from None
    if not isinstance(profile, dict) or set(profile) != {"description", "notebooks"}:
        keys = ", ".join(map(str, profile)) if isinstance(profile, dict) else "no keys"
        raise ProfileError(f"{path} must have the keys description and notebooks; it has: {keys}.")
    notebooks = profile["notebooks"]
    if not isinstance(notebooks, dict) or not notebooks:
        raise ProfileError(f"{path}: notebooks must map each notebook's name to its parameters.")
    for notebook, parameters in notebooks.items():
        if not isinstance(parameters, dict):
            raise ProfileError(
                f"{path}: the parameters of {notebook} must be a map like {{seed: 1}}, "
                f"or {{}} for the defaults; got {parameters!r}."
            )
    return profile


def check_parameters(chosen: dict[str, Any], values: dict[str, Any], where: str) -> None:
    """Check that each chosen parameter is one of a notebook's `values`, and of the same type.

    Args:
        chosen: What the profile says.
        values: The notebook's parameters with their defaults.
        where: Begins the sentence: the profile and the notebook.
    """
    for key, value in chosen.items():
        if key in RESERVED:
            raise ProfileError(f"{where}: {key} is set by the workflow; leave it out.")
        if key not in values:
            there = ", ".join(name for name in values if name not in RESERVED) or "none"
            raise ProfileError(f"{where} has no parameter '{key}'; it has: {there}.")
        if not same_type(value, values[key]):
            raise ProfileError(
                f"{where}: {key} is {value!r} ({type(value).__name__}), but its default is "
                f"{values[key]!r} ({type(values[key]).__name__}); "
                "write it the same way (1.0e-3, not 1e-3, is a number in YAML)."
            )


def run_parameters(name: str, root: Path, results: Path, kitti_root: str = "") -> dict[str, dict]:
    """Check a profile against the notebooks and give every parameter of the run.

    Args:
        name: The profile.
        root: The project's folder.
        results: Where the run's records and figures go.
        kitti_root: Folder of KITTI Raw, or "" for the synthetic drives.

    Returns:
        For each notebook of the profile, all its parameters: its defaults, then the profile's
        values, then those the workflow sets; folders absolute.
    """
    reserved = dict(zip(RESERVED, (str(results), kitti_root, name), strict=True))
    known = notebook_names(root)
    complete = {}
    for notebook, chosen in load_profile(name, root)["notebooks"].items():
        if notebook not in known:
            there = ", ".join(known) or "none"
            raise ProfileError(
                f"profiles/{name}.yaml names the notebook '{notebook}', which is not in "
                f"notebooks/; there are: {there}."
            )
        values = defaults(root / "notebooks" / f"{notebook}.ipynb")
        check_parameters(chosen, values, where=f"profiles/{name}.yaml: {notebook}")
        values |= chosen | {key: reserved[key] for key in reserved if key in values}
        for key in set(FOLDERS) & set(values):
            values[key] = os.path.abspath(root / "notebooks" / values[key])
        complete[notebook] = values
    return complete


def check_kitti(folder: str) -> str:
    """Check that a folder holds KITTI Raw drives; return it as an absolute path ("" stays "")."""
    if not folder:
        return ""
    path = Path(os.path.abspath(Path(folder).expanduser()))
    if not path.is_dir():
        parent = next(p for p in path.parents if p.is_dir())
        raise ProfileError(
            f"KITTI_ROOT {path} is not a folder; {parent} holds: {_listing(parent)}."
        )
    if not any(path.glob("*/*_drive_*_sync")):
        raise ProfileError(
            f"KITTI_ROOT {path} holds no drive DATE/DATE_drive_NNNN_sync "
            f"(it must be the folder above the dates); it holds: {_listing(path)}."
        )
    return str(path)


def _listing(folder: Path, most: int = 8) -> str:
    """Name what a folder holds, in short."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") or "nothing"
