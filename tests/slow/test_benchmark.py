"""The benchmark of a training step, run as users run it; nothing here judges a time."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.common.provenance import provenance

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = "--device cpu --width 0.05 --size 64 64 --rows 2 --repeats 2".split()


def run(*arguments):
    command = [sys.executable, BENCHMARKS / "ubn_step.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def modules(monkeypatch):
    """The benchmark's own modules, which are no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import measuring
    import tables
    import training_steps
    import ubn_step

    return SimpleNamespace(
        measuring=measuring, tables=tables, training_steps=training_steps, ubn_step=ubn_step
    )


def tiny_setting(modules, **changes):
    setting = dict(device="cpu", model="resnet", width=0.05, size=(64, 64), rows=2, threads=1)
    setting |= dict(precision="fp32", layout="contiguous", mode="eager")
    return modules.training_steps.Setting(**setting | changes)


@pytest.mark.slow
def test_a_run_writes_its_times_and_a_table(tmp_path, modules, monkeypatch):
    ended = run(*TINY, "--k", 0, 3, "--skip-memory", "--out", tmp_path)
    assert ended.returncode == 0, ended.stderr
    readme = (tmp_path / "README.md").read_text()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}
    files = sorted(tmp_path.glob("*.json"))
    assert [path.name.split("-")[1] for path in files] == ["dispnet", "resnet"]
    for path in files:
        comparison = json.loads(path.read_text())
        assert comparison["setting"]["size"] == [64, 64]
        assert comparison["provenance"]["threads"] == 1 and comparison["provenance"]["cpu"]
        assert set(comparison["eval_layer_milliseconds"]) == {
            "BatchNorm2d",
            "UnsupervisedBatchNorm2d",
        }
        without, three = comparison["measurements"]
        assert (without["k"], three["k"]) == (0, 3)
        for measured in (without, three):
            assert list(measured["milliseconds"]) == list(measured["losses"])
            for method, times in measured["milliseconds"].items():
                assert len(times) == 2 and min(times) > 0
                row = f"| {measured['k']} | {method}"
                lines = [line for line in readme.splitlines() if line.startswith(row)]
                assert len(lines) == len(files)
                assert any(f"| {np.median(times):.1f} " in line for line in lines)
                assert all(line in ended.stdout for line in lines)
        # What is timed is what it is called: without unlabeled rows all are BN, and with them
        # all but BN normalize alike.
        losses = three["losses"]
        assert len({round(loss, 5) for loss in without["losses"].values()}) == 1
        assert losses["ubn_forward"] == pytest.approx(losses["two passes"], rel=1e-5)
        assert losses["joint pass"] == pytest.approx(losses["two passes"], rel=1e-5)
        assert losses["BN"] == pytest.approx(without["losses"]["BN"], rel=1e-5)
        assert losses["BN"] != pytest.approx(losses["two passes"], rel=1e-5)
    (tmp_path / "kitti_pipeline.json").write_text("{}")  # another benchmark's
    readme += f"\n{modules.tables.KITTI_MARK}\n\nIts table.\n"
    (tmp_path / "README.md").write_text(readme.replace("# What", "# Old"))
    monkeypatch.setattr(sys, "argv", ["ubn_step.py", "--table", "--out", str(tmp_path)])
    assert modules.ubn_step.main() == 0
    assert (tmp_path / "README.md").read_text() == readme


@pytest.mark.parametrize(
    "options, said",
    [
        (["--k", "1", "-1"], "--k -1: it must be at least 0."),
        (["--rows", "1"], "--rows 1: it must be at least 2."),
        (["--repeats", "0"], "--repeats 0: it must be at least 1."),
        (["--width", "0"], "--width 0: it must be above 0."),
        (["--table", "--out", "{empty}"], "{empty} holds no results: run the benchmark without"),
        (["--table", "--out", "{foreign}"], "{foreign}/a.json is no result of this benchmark"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    tmp_path, modules, monkeypatch, capsys, options, said
):
    folders = {"empty": tmp_path / "empty", "foreign": tmp_path / "foreign"}
    for folder in folders.values():
        folder.mkdir()
    (folders["foreign"] / "a.json").write_text('{"setting": 1}')
    arguments = [option.format(**folders) for option in options]
    monkeypatch.setattr(sys, "argv", ["ubn_step.py", *arguments])
    assert modules.ubn_step.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("ubn_step: " + said.format(**folders))
    assert len(error.splitlines()) == 1


def test_steps_take_turns_and_each_comes_first(modules):
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "abc"}
    times = modules.measuring.alternate(steps, repeats=3, device="cpu")
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert sorted(rounds[modules.measuring.WARM_UP :]) == ["abc", "bca", "cab"]
    assert all(len(times[name]) == 3 for name in steps)


def test_ratios_are_judged_by_their_interval(modules):
    ratio = modules.tables.Ratio.of([10, 20, 30, 40, 50, 60, 70, 80, 90], [10] * 9)
    assert ratio == (5, 2, 8)  # of nine values, the second and the second to last: 96.1 %
    assert str(ratio) == "5.00 [2.00, 8.00]"
    limits = {8.5: "met", 4: "unclear", 1.5: "missed"}
    assert all(verdict in ratio.against(limit) for limit, verdict in limits.items())
    few = modules.tables.Ratio.of([3, 1, 2], [1, 1, 1])
    assert str(few) == "2.00" and "met" in few.against(2.5) and "missed" in few.against(1.5)


def test_table_shows_memory_and_limits(modules):
    methods = modules.training_steps.METHODS
    times = (10.0, 20.0, 19.0, 14.0)
    measured = dict(
        k=1,
        milliseconds={name: [time] * 9 for name, time in zip(methods, times, strict=True)},
        losses=dict.fromkeys(methods, 1.0),
        memory_mb={
            "default": dict(zip(methods, (100, 150, 200, 120), strict=True)),
            "one arena": dict(zip(methods, (100, 150, 200, 105), strict=True)),
        },
    )
    comparison = modules.tables.Comparison(
        setting=tiny_setting(modules, mode="compiled"),
        measurements=[measured],
        eval_layer_milliseconds={"plain": [1.0] * 9, "ubn": [1.0] * 9},
        provenance=provenance(),
    )
    text = modules.tables.table(comparison)
    (row,) = (line for line in text.splitlines() if "ubn_forward" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [
        "ubn_forward (compiled: as two passes)",
        "14.0",
        "1.40 [1.40, 1.40]",
        "1.67",
        "0.74 [0.74, 0.74]",
        "1.20",
        "1.05",
    ]
    assert "- time / BN: 1.40 [1.40, 1.40], limit 1.45: **met**" in text
    assert "- time / joint pass: 0.74 [0.74, 0.74], limit 0.75: **met**" in text
    assert "- memory / BN: 1.20, limit 1.10: **missed**" in text
    assert "- memory / BN with one arena: 1.05, limit 1.10: **met**" in text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_memory_of_a_process_is_that_of_its_tensors(modules):
    setting = tiny_setting(modules, width=0.5, rows=8)
    bn, joint = (
        modules.measuring.peak_of_process(setting, k, method, one_arena=True)
        for k, method in ((0, "BN"), (3, "joint pass"))
    )
    # The activations alone: each of the stem's and the first stage's five convolutions and
    # normalizations keeps 16 channels of 8 images, 64 x 64, in four bytes.
    assert bn > 10 * 16 * 8 * 64 * 64 * 4 / 2**20
    assert 3 * bn < joint < 5 * bn
    with pytest.raises(OSError, match=r"memory of 'none' failed: KeyError: 'none'"):
        modules.measuring.peak_of_process(setting, 0, "none", one_arena=True)
