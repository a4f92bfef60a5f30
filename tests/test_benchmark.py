"""The benchmark of a training step, run as users run it; nothing here judges a time."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
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

    return measuring, tables, training_steps


def tiny_setting(training_steps, **changes):
    setting = dict(device="cpu", model="resnet", width=0.05, size=(64, 64), rows=2, threads=1)
    setting |= dict(precision="fp32", layout="contiguous", mode="eager")
    return training_steps.Setting(**setting | changes)


def test_a_run_writes_its_times_and_a_table(tmp_path):
    ended = run(*TINY, "--k", 0, 3, "--skip-memory", "--out", tmp_path)
    assert ended.returncode == 0, ended.stderr
    readme = (tmp_path / "README.md").read_text()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}
    files = sorted(tmp_path.glob("*.json"))
    assert [path.name.split("-")[1] for path in files] == ["dispnet", "resnet"]
    for path in files:
        comparison = json.loads(path.read_text())
        assert path.stem in readme.replace("64 x 64", "64x64") or comparison["setting"]["rows"] == 2
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
                assert sum(line.startswith(row) for line in readme.splitlines()) == 2
                assert f" {np.median(times):.1f} " in readme and f" {np.median(times):.1f} " in (
                    ended.stdout
                )
        # What is timed is what it is called: equal without unlabeled rows, and with them all
        # three that see them normalize alike, but for the joint pass's loss they agree with.
        losses = three["losses"]
        assert len({round(loss, 5) for loss in without["losses"].values()}) == 1
        assert losses["ubn_forward"] == pytest.approx(losses["two passes"], rel=1e-5)
        assert losses["joint pass"] == pytest.approx(losses["two passes"], rel=1e-5)
        assert losses["BN"] == pytest.approx(without["losses"]["BN"], rel=1e-5)
        assert losses["BN"] != pytest.approx(losses["two passes"], rel=1e-5)
    (tmp_path / "README.md").unlink()
    assert run("--table", "--out", tmp_path).returncode == 0
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
def test_what_cannot_be_is_refused_in_one_sentence(tmp_path, options, said):
    folders = {"empty": tmp_path / "empty", "foreign": tmp_path / "foreign"}
    for folder in folders.values():
        folder.mkdir()
    (folders["foreign"] / "a.json").write_text('{"setting": 1}')
    ended = run(*(option.format(**folders) for option in options))
    assert ended.returncode == 1
    assert ended.stderr.startswith("ubn_step: " + said.format(**folders))
    assert len(ended.stderr.splitlines()) == 1


def test_steps_take_turns_and_each_comes_first(modules):
    measuring, _, _ = modules
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "abc"}
    times = measuring.alternate(steps, repeats=3, device="cpu")
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert sorted(rounds[measuring.WARM_UP :]) == ["abc", "bca", "cab"]
    assert all(len(times[name]) == 3 for name in steps)


def test_ratios_are_judged_by_their_interval(modules):
    _, tables, _ = modules
    ratio = tables.Ratio.of([10, 20, 30, 40, 50, 60, 70, 80, 90], [10] * 9)
    assert ratio == (5, 2, 8)  # of nine values, the second and the second to last: 96.1 %
    assert str(ratio) == "5.00 [2.00, 8.00]"
    limits = {8.5: "met", 4: "unclear", 1.5: "missed"}
    assert all(verdict in ratio.against(limit) for limit, verdict in limits.items())
    few = tables.Ratio.of([3, 1, 2], [1, 1, 1])
    assert str(few) == "2.00" and "met" in few.against(2.5) and "missed" in few.against(1.5)


def test_table_shows_memory_and_limits(modules):
    _, tables, training_steps = modules
    methods = training_steps.METHODS
    measured = dict(
        k=1,
        milliseconds=dict(zip(methods, ([10.0] * 9, [20.0] * 9, [19.0] * 9, [14.0] * 9))),
        losses=dict.fromkeys(methods, 1.0),
        memory_mb={
            "default": dict(zip(methods, (100, 150, 200, 120))),
            "one arena": dict(zip(methods, (100, 150, 200, 105))),
        },
    )
    from ubnlib.records import provenance

    comparison = tables.Comparison(
        setting=tiny_setting(training_steps, mode="compiled"),
        measurements=[measured],
        eval_layer_milliseconds={"plain": [1.0] * 9, "ubn": [1.0] * 9},
        provenance=provenance(),
    )
    text = tables.table(comparison)
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
    measuring, _, training_steps = modules
    setting = tiny_setting(training_steps, width=0.5, rows=8)
    bn, joint = (
        measuring.peak_of_process(setting, k, method, one_arena=True)
        for k, method in ((0, "BN"), (3, "joint pass"))
    )
    # The activations alone: each of the stem's and the first stage's five convolutions and
    # normalizations keeps 16 channels of 8 images, 64 x 64, in four bytes.
    assert bn > 10 * 16 * 8 * 64 * 64 * 4 / 2**20
    assert 3 * bn < joint < 5 * bn
    with pytest.raises(OSError, match=r"memory of 'none' failed: KeyError: 'none'"):
        measuring.peak_of_process(setting, 0, "none", one_arena=True)
