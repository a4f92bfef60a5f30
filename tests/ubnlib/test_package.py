"""What the library needs and gives, how large it is, which way imports flow; its wheel alone."""

import ast
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ubnlib

ROOT = Path(__file__).parents[2]


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_only_two_other_packages_are_imported_where_they_are_used():
    """Pillow where images are decoded; filelock, which torch brings, where frames are packed."""
    names = {n for path in (ROOT / "ubnlib").rglob("*.py") for n in imported(path)}
    others = {name.partition(".")[0] for name in names} - {"torch", "numpy", "ubnlib"}
    assert others - sys.stdlib_module_names == {"PIL", "filelock"}
    assert not others & {"fcntl", "resource", "pickle", "msvcrt"}


def test_the_library_is_thin():
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / "ubnlib").rglob("*.py"))
    assert lines < 4000


# The ablation's domains are the toy and the depth experiment; other sections know none of another.
ALLOWED = {
    "ubnlib": set(),
    "experiments.common": {"ubnlib"},
    "experiments.toy": {"ubnlib", "experiments.common"},
    "experiments.depth": {"ubnlib", "experiments.common", "synthetic_kitti"},
    "experiments.method": {"ubnlib", "experiments.common"},
    "experiments.ablation": {
        "ubnlib", "experiments.common", "experiments.toy.ensemble", "experiments.toy.spiral",
        "experiments.depth.data", "experiments.depth.evaluate", "experiments.depth.rgbd_data",
    },
    "experiments.verdicts": {"ubnlib", "experiments.common"},
}  # fmt: skip


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_flow_one_way(package):
    files = list((ROOT / package.replace(".", "/")).rglob("*.py"))
    assert files
    ours = ("ubnlib.", "experiments.", "workflow.", "synthetic_kitti.", "kitti_drives.")
    for path in files:
        for name in imported(path):
            if f"{name}.".startswith((f"{package}.", *(f"{p}." for p in ALLOWED[package]))):
                continue
            assert not f"{name}.".startswith(ours), f"{path} imports {name}"


def test_public_names_are_there():
    expected = {
        "UnsupervisedBatchNorm1d", "UnsupervisedBatchNorm2d", "UnsupervisedBatchNorm3d",
        "convert_ubn", "revert_ubn", "register_norm", "ubn_forward", "collecting", "using",
        "statistics_gap", "refresh_statistics", "monte_carlo_predictions", "DispNet",
    }  # fmt: skip
    assert set(ubnlib.__all__) == expected
    assert all(getattr(ubnlib, name).__doc__ for name in expected)


# The wheel, in an environment that has torch and numpy and nothing else


def with_requirements(names) -> set[str]:
    """Return distributions and all that they need in turn."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for other systems, or an extra
        if name not in found:
            found.add(name)
            needed = map(Requirement, requires)
            waiting += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "ubnlib", source / "ubnlib")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", source / "dist", source], check=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture
def python(wheel, tmp_path) -> Path:
    """An interpreter with the wheel, torch, numpy and what these two need; found by links."""
    venv.create(tmp_path / "environment", symlinks=True)
    (packages,) = tmp_path.glob("environment/lib/python*/site-packages")
    for name in with_requirements(["torch", "numpy"]):
        files = distribution(name).files
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            (packages / top).symlink_to(distribution(name).locate_file(top))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return tmp_path / "environment" / "bin" / "python"


def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"ubnlib"}
    assert "ubnlib/kitti/split_lists/eigen_test_697.txt" in names
    assert wheel.stat().st_size < 300_000


BEFORE = """
import torch
from importlib.util import find_spec
from torch import nn
for name in ("PIL", "pydantic", "tqdm", "scipy", "pandas", "experiments", "numba"):
    assert find_spec(name) is None, name
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
labeled, unlabeled = torch.randn(4, 3, 8, 8), torch.randn(8, 3, 8, 8)
target, criterion = torch.tensor([0, 1, 2, 3]), nn.CrossEntropyLoss()
"""
AFTER = """
print(tuple(output.shape), model[0].weight.grad.any().item())
import pkgutil, ubnlib
from ubnlib.kitti import KittiRaw, LabeledUnlabeledLoader, PackedDepth
for module in pkgutil.walk_packages(ubnlib.__path__, "ubnlib."):
    __import__(module.name)
frames = PackedDepth({packed!r})
loader = LabeledUnlabeledLoader(
    frames, [0, 1], range(2, len(frames)), labeled_batch=2, unlabeled_batch=2, steps=1, seed=0
)
for labeled, unlabeled in loader:
    print(tuple(labeled.depth().shape), tuple(unlabeled.images.shape))
try:
    KittiRaw({raw!r}).image(0)
except ImportError as error:
    print(error)
"""


def test_in_a_bare_environment(python, tiny_kitti, tiny_packed):
    """The README's example, every module, a packed set; decoding says what it needs.

    With a home that cannot be written to.
    """
    section = (ROOT / "README.md").read_text().split("## UBN in your own model")[1]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    code = BEFORE + example + AFTER.format(packed=str(tiny_packed), raw=str(tiny_kitti))
    environment = {"HOME": "/nonexistent", "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [python, "-I", "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == [
        "(4, 5) True",
        "(2, 12, 36) (2, 3, 12, 36)",
        "KITTI's images are decoded by Pillow, which is not installed: pip install ubnlib[kitti].",
    ], done.stderr
