"""The wheel of the library alone, in an environment that has torch and numpy and nothing else."""

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

from small_kitti import write_root
from ubnlib.kitti import KittiRaw, prepare

ROOT = Path(__file__).parents[2]


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


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """An interpreter with the wheel, torch, numpy and what these two need; found by links."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    for name in with_requirements(["torch", "numpy"]):
        files = distribution(name).files
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            (packages / top).symlink_to(distribution(name).locate_file(top))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", packages, wheel], check=True)
    return home / "bin" / "python"


def run(python, code, **options):
    command = [python, "-I", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_it_holds_the_library_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"ubnlib"}
    assert "ubnlib/kitti/split_lists/eigen_test_697.txt" in names
    assert wheel.stat().st_size < 300_000


def test_nothing_else_is_in_the_environment(python):
    for name in ("PIL", "pydantic", "tqdm", "scipy", "pandas", "experiments", "numba"):
        assert run(python, f"import {name}").returncode != 0, name


GIVEN = """
import torch
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
labeled, unlabeled = torch.randn(4, 3, 8, 8), torch.randn(8, 3, 8, 8)
target, criterion = torch.tensor([0, 1, 2, 3]), nn.CrossEntropyLoss()
"""


def test_the_readmes_example_runs(python):
    section = (ROOT / "README.md").read_text().split("## UBN in your own model")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    done = run(python, f"{GIVEN}{code}\nprint(output.shape, model[0].weight.grad.any().item())")
    assert done.stdout == "torch.Size([4, 5]) True\n", done.stderr


READ = """
from ubnlib.kitti import KittiRaw, LabeledUnlabeledLoader, PackedDepth
frames = PackedDepth({packed!r})
loader = LabeledUnlabeledLoader(
    frames, [0, 1], range(2, len(frames)), labeled_batch=2, unlabeled_batch=2, steps=2, seed=0
)
for labeled, unlabeled in loader:
    print(tuple(labeled.depth().shape), tuple(unlabeled.images.shape))
try:
    KittiRaw({raw!r}).image(0)
except ImportError as error:
    print(error)
"""


def test_it_reads_a_packed_set_and_says_what_decoding_needs(python, tmp_path):
    root = write_root(tmp_path / "raw")
    prepare(KittiRaw(root, size=(12, 36)), tmp_path / "packed", progress=False)
    code = READ.format(packed=str(tmp_path / "packed"), raw=str(root))
    done = run(python, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *["(2, 12, 36) (2, 3, 12, 36)"] * 2,
        "KITTI's images are decoded by Pillow, which is not installed: pip install ubnlib[kitti].",
    ]
