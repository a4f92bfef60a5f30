"""The benchmark of the spiral's ensemble, run as users run it; nothing here judges a time."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.common.provenance import provenance
from experiments.toy.train import SpiralConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
METHODS = ["BN", "UBN, corrected", "UBN, none", "UBN, all"]
TINY = "--seeds 3 --turn-steps 2 --repeats 2 --steps 2 --sweeps 1 --processes 1".split()


@pytest.fixture
def modules(monkeypatch):
    """The benchmark's own modules, which are no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kitti_tables
    import spiral_ensemble
    import tables

    return SimpleNamespace(spiral=spiral_ensemble, tables=tables, kitti=kitti_tables)


@pytest.mark.slow
def test_a_run_writes_its_times_and_its_part_of_the_table(tmp_path, modules):
    tables = modules.tables
    others = f"# Steps\n\nA table.\n\n{tables.KITTI_MARK}\n\n# Frames\n\nAnother.\n"
    (tmp_path / "README.md").write_text(others)
    command = [sys.executable, BENCHMARKS / "spiral_ensemble.py", *TINY, "--out", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "spiral_ensemble.json"}
    report = modules.spiral.Report.model_validate_json(
        (tmp_path / "spiral_ensemble.json").read_text()
    )
    assert report.setting == SpiralConfig(seeds=(0, 1, 2), steps=2)
    assert report.provenance.threads == 1
    assert len(report.sweeps) == 1 and report.sweeps[0] > 0
    for times in (report.together, report.alone):
        assert list(times) == METHODS
        assert all(len(ms) == 2 and min(ms) > 0 for ms in times.values())
    readme = (tmp_path / "README.md").read_text()
    assert report.markdown().strip() in readme and report.markdown() in ended.stdout
    part = f"{tables.SPIRAL_MARK}\n\n{report.markdown()}\n"
    assert readme.replace(part, "") == others, "the parts of others stay"
    assert readme.index(tables.SPIRAL_MARK) < readme.index(tables.KITTI_MARK)


@pytest.mark.parametrize("option", ["seeds", "turn-steps", "repeats", "steps", "sweeps"])
def test_what_cannot_be_is_refused_in_one_sentence(modules, monkeypatch, capsys, tmp_path, option):
    arguments = [f"--{option}", "0", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["spiral_ensemble.py", *arguments])
    assert modules.spiral.main() == 1
    assert capsys.readouterr().err == f"spiral_ensemble: --{option} 0: it must be at least 1.\n"
    assert not list(tmp_path.iterdir())


def test_what_is_timed_is_what_it_is_called(modules, monkeypatch):
    trained = []
    monkeypatch.setattr(modules.spiral, "train_spiral", trained.append)
    setting = SpiralConfig(seeds=(4, 5, 6))
    times = modules.spiral.take_turns(setting, steps=7, repeats=1)
    assert list(times) == ["together", "alone"] and list(times["alone"]) == METHODS
    assert all(config.steps == 7 for config in trained)
    told = {(c.norm.kind, getattr(c.norm, "stats_grad", ""), c.seeds) for c in trained}
    kinds = [("bn", ""), ("ubn", "corrected"), ("ubn", "none"), ("ubn", "all")]
    assert told == {(*kind, seeds) for kind in kinds for seeds in ((4, 5, 6), (4,))}
    seen = []
    monkeypatch.setattr(
        modules.spiral, "obtain_all", lambda configs, run, folder, processes: seen.extend(configs)
    )
    modules.spiral.sweep(setting, 2)
    assert [(c.norm.kind, getattr(c.norm, "stats_grad", "")) for c in seen] == kinds
    assert all((c.seeds, c.steps) == (setting.seeds, setting.steps) for c in seen)


def make_report(modules, sweeps):
    turns = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    return modules.spiral.Report(
        setting=SpiralConfig(seeds=range(30)),
        steps=100,
        together={"BN": (10 * np.array(turns)).tolist(), "UBN, all": [8.0] * 9},
        alone={"BN": turns, "UBN, all": [2.0] * 9},
        processes=2,
        sweeps=sweeps,
        provenance=provenance(),
    )


def test_table_shows_medians_ratios_and_the_limit(modules):
    text = make_report(modules, [50.0, 40.0, 55.0]).markdown()
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    }
    assert cells["method"][0] == "30 side by side [ms]"
    assert cells["BN"] == [
        "50.00 [20.00, 80.00]",
        "5.00 [2.00, 8.00]",
        "150.00 [60.00, 240.00]",
        "3.00 [3.00, 3.00]",
    ]
    assert cells["UBN, all"][-1] == "7.50 [7.50, 7.50]"
    assert "2 methods, 30 seeds, 1000 steps" in text
    assert text.endswith("in 2 process(es), in seconds: 50.00, limit 60.00: **met**\n")
    assert "**missed**" in make_report(modules, [61.0]).markdown()
    assert "**unclear**" in make_report(modules, [50.0] * 4 + [70.0] * 4).markdown()
    assert max(map(len, text.splitlines()[:16])) <= 110


def test_parts_of_the_readme_stay_in_their_order(modules, tmp_path):
    tables = modules.tables
    texts = {tables.KITTI_MARK: "# K\n\nk", "": "# S\n\ns\n", tables.SPIRAL_MARK: "\n# E\n\ne\n\n"}
    for mark, text in texts.items():
        path = tables.write_part(tmp_path / "new", mark, text)
    whole = path.read_text()
    expected = f"# S\n\ns\n\n{tables.SPIRAL_MARK}\n\n# E\n\ne\n\n{tables.KITTI_MARK}\n\n# K\n\nk\n"
    assert whole == expected
    for mark, text in texts.items():
        tables.write_part(path.parent, mark, text.upper())
        assert path.read_text() != whole
        tables.write_part(path.parent, mark, text)
        assert path.read_text() == whole
    assert [path.name for path in path.parent.iterdir()] == ["README.md"]


def test_the_step_benchmark_leaves_the_ensembles_file_alone(modules, tmp_path):
    (tmp_path / "spiral_ensemble.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no results"):
        modules.tables.write_readme(tmp_path)
    assert json.loads((tmp_path / "spiral_ensemble.json").read_text()) == {}
