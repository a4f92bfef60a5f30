"""What importing the library needs and gives, how large it is, and which way imports flow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(code, *options, **kwargs):
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


# Imports that come from a file of the library may only be of torch, numpy, the standard library and
# the library itself; what torch imports for itself does not matter.
REFUSING = """
import builtins, sys
plain = builtins.__import__
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    top = name.partition(".")[0]
    here = (globals or {}).get("__name__", "").partition(".")[0]
    allowed = {"torch", "numpy", "ubnlib"} | sys.stdlib_module_names
    if here == "ubnlib" and not level and top not in allowed - {"fcntl", "resource", "pickle"}:
        raise ImportError(f"ubnlib imports {name}")
    return plain(name, globals, locals, fromlist, level)
builtins.__import__ = guarded
import pkgutil, ubnlib, ubnlib.kitti
modules = [m.name for m in pkgutil.walk_packages(ubnlib.__path__, "ubnlib.")]
for module in modules:
    __import__(module)
print(len(modules))
"""


def test_the_library_needs_torch_and_numpy_only():
    """Every module of it, the KITTI loader's too, in a process that refuses all else."""
    done = python(REFUSING)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


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
        "ubnlib", "experiments.common", "experiments.toy", "experiments.depth",
    },
    "experiments.verdicts": {"ubnlib", "experiments.common"},
}  # fmt: skip


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


def test_it_works_where_nothing_can_be_written(tmp_path):
    """From a read-only installation, with a home that cannot be written to."""
    code = """
import numpy as np, torch
from ubnlib import DispNet
from ubnlib.kitti import project_velodyne
points = np.array([[10.0, 0, 0, 1]], np.float32)
projection = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1.0, 0, 0, 0]])
print(project_velodyne(points, projection, (1, 1)).item(), DispNet(width=0.1) is not None)
"""
    environment = {"HOME": "/nonexistent", "PATH": "", "TMPDIR": str(tmp_path)}
    done = python(code, "-B", env=environment, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "10.0 True\n"), done.stderr


def test_public_names_are_there():
    import ubnlib

    expected = {
        "UnsupervisedBatchNorm1d", "UnsupervisedBatchNorm2d", "UnsupervisedBatchNorm3d",
        "convert_ubn", "revert_ubn", "ubn_forward", "collecting", "using", "statistics_gap",
        "refresh_statistics", "monte_carlo_predictions", "DispNet",
    }  # fmt: skip
    assert set(ubnlib.__all__) == expected
    assert all(getattr(ubnlib, name).__doc__ for name in expected)
