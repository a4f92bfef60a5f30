"""The lists of packages agree: both pyproject.toml, environment.yml, requirements.lock, binder/."""

import os
import re
import subprocess
import tomllib
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
CONDA_NAMES = {"pytorch": "torch"}


def declared() -> dict[str, str]:
    """The packages of both distributions with their ranges, the extras' too."""
    lines = []
    for path in (ROOT / "pyproject.toml", ROOT / "experiments" / "pyproject.toml"):
        project = tomllib.loads(path.read_text())["project"]
        lines += chain(project["dependencies"], *project["optional-dependencies"].values())
    return {r.name: str(r.specifier) for r in map(Requirement, lines) if r.name != "ubnlib"}


def conda() -> dict[str, str]:
    """environment.yml's packages with their ranges, those that only pip has too."""
    *packages, other = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    packages = [
        Requirement(entry) for entry in [*packages, *other["pip"]] if not entry.startswith("-e ")
    ]
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
    assert entries_of_pip()[-2:] == ["-e .", "-e experiments"]


def test_lock_pins_everything_exactly():
    """A line may end in the Pythons or systems that it is for."""
    line = re.compile(r"[a-z0-9][a-z0-9.-]*==[0-9][\w.]*( ; [A-Za-z_<>=!'0-9.*() -]+)?")
    loose = [x for x in lock_lines() if not line.fullmatch(x)]
    assert loose == [], "a line of requirements.lock is no plain NAME==VERSION"


def test_lock_brings_no_build_of_torch_along():
    """CUDA's libraries are left to the build of torch that is installed."""
    assert not [x for x in lock_lines() if re.match("nvidia-|cuda-|triton", x)]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("system", [("linux", "Linux"), ("darwin", "Darwin"), ("win32", "Windows")])
def test_lock_has_one_version_of_each_declared_package(python, system):
    where = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    where |= dict(zip(("sys_platform", "platform_system"), system, strict=True))
    found = Counter(r.name for r in map(Requirement, lock_lines()) if takes(r, where))
    missing = [name for name in declared() if found[name] != 1]
    assert missing == []


def takes(requirement: Requirement, where: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(where)


def test_lock_pins_each_declared_package_in_its_range():
    pins = [(r.name, str(r.specifier)[2:]) for r in map(Requirement, lock_lines())]
    for name, specifier in declared().items():
        versions = [version for pinned, version in pins if pinned == name]
        assert versions, f"requirements.lock has no {name}: run make lock"
        assert all(map(Requirement(f"{name}{specifier}").specifier.contains, versions)), name
    assert dict(pins)["torch"] == "2.13.0"


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
    assert command == "python -m pip install --no-deps --no-build-isolation -e . -e experiments"
    assert f"$(BIN)/{command}" in (ROOT / "Makefile").read_text()
