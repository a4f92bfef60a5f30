"""The lists of packages agree: pyproject.toml, environment.yml, requirements.lock, binder/."""

import os
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
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


def test_binder_installs_the_lock_with_torch_for_the_cpu():
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    index, lock = [line for line in lines if not line.startswith("#")]
    assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
    option, path = lock.split()
    assert option == "-r"
    assert (ROOT / "binder" / path).resolve() == (ROOT / "requirements.lock").resolve()


def test_binder_has_a_python_that_the_project_supports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert Requirement(f"python{project['requires-python']}").specifier.contains(python)


def test_binder_installs_the_project_as_make_does():
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", str(script)], check=True)
    command = script.read_text().splitlines()[-1]
    assert command == "python -m pip install --no-deps --no-build-isolation -e ."
    assert f"$(BIN)/{command}" in (ROOT / "Makefile").read_text()
