"""The three lists of packages agree: pyproject.toml, environment.yml, requirements.lock."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"pytorch": "torch"}


def declared() -> dict[str, str]:
    """pyproject.toml's packages with their ranges, the extras' too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    return {r.name: str(r.specifier) for r in map(Requirement, lines)}


def conda() -> dict[str, str]:
    """environment.yml's packages with their ranges, those that only pip has too."""
    *packages, other = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    packages = [Requirement(entry) for entry in [*packages, *other["pip"]] if entry != "-e ."]
    return {CONDA_NAMES.get(r.name, r.name): str(r.specifier) for r in packages}


def entries_of_pip() -> list[str]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return entries[-1]["pip"]


def lock_lines() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def test_environment_has_the_packages_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = conda()
    assert packages.pop("python") == project["requires-python"]
    assert packages.pop("pip") == ""
    assert packages == declared()


def test_environment_installs_the_project():
    assert "-e ." in entries_of_pip()


def test_lock_pins_everything_exactly():
    loose = [x for x in lock_lines() if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][\w.]*", x)]
    assert loose == [], "a line of requirements.lock is no plain NAME==VERSION"


def test_lock_pins_each_declared_package_in_its_range():
    pins = dict(line.split("==") for line in lock_lines())
    for name, specifier in declared().items():
        assert name in pins, f"requirements.lock has no {name}: run make lock"
        assert Requirement(f"{name}{specifier}").specifier.contains(pins[name]), name
    assert pins["torch"] == "2.13.0"
