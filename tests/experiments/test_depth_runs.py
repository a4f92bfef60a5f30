"""The depth study: its design, and how its records are found and compared."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from experiments import run
from experiments.common.records import Result, recorded, write_record
from experiments.common.stats import interval
from experiments.depth import runs as depth_study
from small_project import ROOT


def test_every_cell_of_the_screening_is_another_run():
    cells = depth_study.screening()
    forms = {**depth_study.READINGS, **depth_study.REPAIRS}
    keys = [depth_study.configured(forms[n], s, "data", 0).key for n, s in cells]
    assert len(set(keys)) == len(keys)


def test_bn_is_the_same_run_whatever_the_number_of_unlabeled_images():
    bn = depth_study.READINGS["BN"]
    few, many = ({**depth_study.BASE, "per_labeled": k} for k in (1, 7))
    one, other = (depth_study.configured(bn, setting, "data", 0) for setting in (few, many))
    assert one == other


def test_the_search_is_as_wide_for_bn_as_for_ubn():
    kinds = [config.norm.kind for config in depth_study.search("data", 0).values()]
    assert abs(kinds.count("bn") - kinds.count("ubn")) <= 1
    assert len({c.key for c in depth_study.search("data", 0).values()}) == len(kinds)


def test_methods_differ_in_their_normalization_alone():
    runs = [depth_study.claimed(m, 128, "data", 3) for m in depth_study.METHODS]
    assert len({run.key for run in runs}) == len(runs)
    assert len({run.model_copy(update={"norm": runs[0].norm}).key for run in runs}) == 1


def test_the_standard_profile_runs_the_claims():
    """The notebook finds the study's records, and does not make others beside them."""
    notebook = json.loads((ROOT / "notebooks" / "03_depth_experiments.ipynb").read_text())
    (cell,) = (c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    given: dict = {}
    exec("".join(cell["source"]), given)
    profile = yaml.safe_load((ROOT / "profiles" / "standard.yaml").read_text())
    given |= profile["notebooks"]["03_depth_experiments"]
    assert given["label_every"] == list(depth_study.FRACTIONS)
    runs = depth_study.notebook_runs(given, "data")
    named = {run.label: run for run in runs}
    for name in depth_study.FIGURE_6:
        run = named[f"depth, {name}, 1/128, seed 2"]
        assert run.config == depth_study.claimed(name, 128, "data", 2) and not run.weights
    assert sum(run.weights for run in runs) == len(depth_study.FIGURE_6)


def record(config, **metrics):
    @recorded
    def run(config):
        return Result.of_one_seed(metrics, {})

    return run(config)


def test_records_are_found_whatever_their_data_and_seed(tmp_path):
    plan = {m: depth_study.claimed(m, 32, "", 0) for m in depth_study.METHODS}
    for seed in (4, 1):
        write_record(record(depth_study.claimed("UBN", 32, "x", seed), delta1=seed / 10), tmp_path)
    write_record(record(depth_study.claimed("UBN", 64, "x", 0), delta1=0.5), tmp_path)
    found = depth_study.find(tmp_path, plan)
    assert {name: [r.seeds for r in some] for name, some in found.items()} == {
        "BN": [], "UBN": [[1], [4]], "UBN, swapped": []
    }  # fmt: skip
    table = depth_study.metrics_of(found)
    assert table[["cell", "seed", "delta1"]].to_numpy().tolist() == [
        ["UBN", 1, 0.1],
        ["UBN", 4, 0.4],
    ]


def test_cells_are_compared_seed_by_seed():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.7, 5)
    ours = base + rng.normal(0.03, 0.01, 5)
    gain = ours - base
    rows = [dict(cell="BN", seed=s, delta1=b) for s, b in enumerate(base)]
    rows += [dict(cell="UBN", seed=s, delta1=o) for s, o in enumerate(ours)]
    rows.append(dict(cell="UBN", seed=77, delta1=0.0))  # without a partner
    table = pd.DataFrame(rows[::-1]).assign(labeled_delta1=0.9, unlabeled_delta1=0.8)
    (row,) = depth_study.compare(table, {"UBN": "BN"}).to_dict("records")
    assert row["seeds"] == 5
    assert row["difference"] == pytest.approx(gain.mean())
    assert (row["low"], row["high"]) == pytest.approx(interval(gain))
    assert row["baseline"] == pytest.approx(base.mean())


def test_a_stage_that_lacks_its_frames_says_so_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run", "depth.indoor"])
    assert run.main() == 1
    assert capsys.readouterr().err == (
        "depth.indoor: The indoor stage needs a folder: --rgbd-root (docs/rgbd.md).\n"
    )


def test_a_stage_makes_the_records_of_its_plan(monkeypatch, tmp_path, capsys):
    made = []

    def note(configs, run, folder, **options):
        made.append(([config.key for config in configs], Path(folder).name, options["processes"]))

    monkeypatch.setattr(depth_study, "obtain_all", note)
    monkeypatch.setattr(
        depth_study, "study_drives", lambda folder, seed: SimpleNamespace(fingerprint=f"set {seed}")
    )
    for stage in ("failure", "claims"):
        options = ["--results", str(tmp_path), "--processes", "2"]
        monkeypatch.setattr("sys.argv", ["run", f"depth.{stage}", *options])
        assert run.main() == 0
    assert made[0][1:] == ("depth_failure", 2) and made[1][1:] == ("records", 2)
    assert made[0][0][0] == depth_study.measured("literal", "set 1", 1000).key
    assert depth_study.claimed("UBN", 32, "set 0", 9).key in made[1][0]
