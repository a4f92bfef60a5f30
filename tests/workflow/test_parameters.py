"""What a profile gives to each notebook, and the sentences on what is wrong with one."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import reproduce
from experiments.depth.packing import NAMED_SPLITS
from experiments.depth.runs import notebook_runs
from job import duration
from parameters import SPLITS, ProfileError, check_kitti, defaults, read_notebook, run_parameters
from reproduce import cores_of, gpus_of
from small_project import ROOT, write_notebook, write_profile

FIRST = """results = "../results/quick"
kitti_root = ""  # "" = the synthetic drives
data_root = "../data/quick"
split = "by_drive"
rate = 0.5
rates = [
    0.1,  # a list over lines
]
steps = 3
note = "a = b"
frames = {"size": [24, 80], "test_every": 2}
"""


@pytest.fixture
def project(tmp_path):
    write_notebook(tmp_path / "notebooks" / "02_small.ipynb", FIRST, "steps")
    write_notebook(tmp_path / "notebooks" / "05_verdicts.ipynb", FIRST, "rate")
    chosen = {"steps": 5, "frames": {"size": [48, 160]}}
    write_profile(tmp_path, {"02_small": chosen, "05_verdicts": {}})
    return tmp_path


@pytest.mark.parametrize("profile", ["quick", "standard", "paper"])
def test_kittis_frames_are_a_domain_of_their_own(profile, tmp_path):
    name = "03_depth_experiments"
    ours = run_parameters(profile, ROOT, tmp_path, "/kitti", "paper_standin")[name]
    assert ours["domain"] == "kitti" and "kitti_root" in ours
    nets = [p.config for p in notebook_runs(ours) if p.config.experiment == "depth"]
    assert {net.learning_rate for net in nets} == {2e-4}  # the paper's
    assert profile == "paper" or run_parameters(profile, ROOT, tmp_path)[name]["domain"] == "drives"


def test_a_profile_names_kittis_rate_and_not_its_domain(project):
    first = f'{FIRST}domain = "drives"\nlearning_rate = 0.5'
    write_notebook(project / "notebooks" / "02_small.ipynb", first, "steps")
    write_profile(project, {"02_small": {"domain": "rooms", "learning_rate": 0.1}})
    values = run_parameters("quick", project, project / "out", "/kitti", "eigen")["02_small"]
    assert (values["domain"], values["learning_rate"]) == ("kitti", 0.1)


def test_notebook_3_opened_by_hand_takes_kittis_frames_for_kittis():
    cells = read_notebook(ROOT / "notebooks" / "03_depth_experiments.ipynb")["cells"]
    (source,) = (cell["source"] for cell in cells if "if not kitti_root" in cell["source"])
    names = {"kitti_root": "x", "domain": "drives", "Path": Path, "clear_output": lambda: None}
    exec(source, names)
    assert names["domain"] == "kitti"


def test_defaults_reads_every_plain_value(project):
    assert defaults(project / "notebooks" / "02_small.ipynb") == {
        "results": "../results/quick",
        "kitti_root": "",
        "data_root": "../data/quick",
        "split": "by_drive",
        "rate": 0.5,
        "rates": [0.1],
        "steps": 3,
        "note": "a = b",
        "frames": {"size": [24, 80], "test_every": 2},
    }


def test_run_parameters_are_complete_and_absolute(project):
    values = run_parameters("quick", project, project / "out", "/kitti", "eigen")["02_small"]
    assert values["split"] == "eigen"
    assert values["steps"] == 5 and values["rate"] == 0.5
    assert values["frames"] == {"size": [48, 160], "test_every": 2}
    assert values["results"] == str(project / "out")
    assert values["kitti_root"] == "/kitti"
    assert values["data_root"] == str(project / "data" / "quick")


@pytest.mark.parametrize(
    ("notebooks", "words"),
    [
        ({"02_toy_anlysis": {}}, ["02_toy_anlysis", "02_small, 05_verdicts"]),
        ({"02_small": {"setps": 1}}, ["'setps'", "split, rate, rates, steps, note, frames"]),
        ({"02_small": {"steps": 1.5}}, ["steps", "1.5 (float)", "3 (int)"]),
        ({"02_small": {"steps": True}}, ["steps", "True (bool)", "3 (int)"]),
        ({"02_small": {"rate": "1e-3"}}, ["rate", "'1e-3' (str)", "1.0e-3"]),
        ({"02_small": {"rates": [0.1, "1e-3"]}}, ["rates", "'1e-3'", "[0.1]"]),
        ({"02_small": {"steps": 0}}, ["steps", "0 (int)", "3 (int)"]),
        ({"02_small": {"rate": -0.5}}, ["rate", "-0.5 (float)"]),
        ({"02_small": {"frames": {"tset_every": 2}}}, ["02_small: frames", "'tset_every'", "size"]),
        ({"02_small": {"frames": {"size": [48]}}}, ["02_small: frames: size", "[48]", "[24, 80]"]),
        ({"02_small": {"frames": {"size": "48"}}}, ["02_small: frames: size", "'48' (str)"]),
        ({"02_small": {"results": "x"}}, ["results", "set by the workflow"]),
        ({"02_small": None}, ["quick.yaml", "{}"]),
        (["02_small"], ["quick.yaml", "notebooks"]),
    ],
)
def test_bad_profile_gives_one_sentence(project, notebooks, words):
    write_profile(project, notebooks)
    with pytest.raises(ProfileError) as error:
        run_parameters("quick", project, project / "out")
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".")
    assert [word for word in words if word not in sentence] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notebooks: {", ["quick.yaml", ", line ", "YAML"]),
        ("notebooks: {a: {}, a: {}}", ["quick.yaml", "a is there twice"]),
        ("description: x\nnotebook: {}", ["quick.yaml", "description and notebooks"]),
        ("", ["quick.yaml", "description and notebooks"]),
    ],
)
def test_malformed_profile(project, text, words):
    (project / "profiles" / "quick.yaml").write_text(text)
    with pytest.raises(ProfileError) as error:
        run_parameters("quick", project, project / "out")
    assert [word for word in words if word not in str(error.value)] == []


def test_default_that_is_computed_is_refused(project):
    write_notebook(project / "notebooks" / "05_verdicts.ipynb", "steps = 2 * 3", "steps")
    with pytest.raises(ProfileError, match=r"05_verdicts.ipynb: 'steps = 2 \* 3'"):
        run_parameters("quick", project, project / "out")


def test_broken_notebook_is_named(project):
    (project / "notebooks" / "05_verdicts.ipynb").write_text('{"cells": [')
    with pytest.raises(ProfileError, match=r"05_verdicts\.ipynb is not a notebook"):
        run_parameters("quick", project, project / "out")


def test_kitti_folder(tmp_path, monkeypatch):
    drive = tmp_path / "raw" / "2011_09_26" / "2011_09_26_drive_0001_sync"
    drive.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert check_kitti("") == ""
    assert check_kitti("raw") == str(tmp_path / "raw")
    with pytest.raises(ProfileError, match=r"the folder above the dates .* 2011_09_26_drive_0001"):
        check_kitti("raw/2011_09_26")
    with pytest.raises(ProfileError, match=rf"{tmp_path}/rwa/x is not a folder"):
        check_kitti("rwa/x")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--profile", "qick"], "There is no profile 'qick'"),
        (["--kitti-root", "nowhere"], "nowhere is not a folder"),
        (["--kitti-root", "raw"], "'quick' splits synthetic drives by drive: with KITTI_ROOT"),
        (["--split", "eigne"], "There is no split 'eigne'; there are: paper_standin, eigen, by_dr"),
        (["--cluster", "slrum"], "generic, kubernetes, slurm"),
        (["--claim", ""], "Which claim? Give its id in claims.yaml"),
        (["--claim", "fig2-acuracy"], "There is no claim 'fig2-acuracy'; there are: eq1-batchnorm"),
    ],
)
def test_bad_arguments_stop_before_anything_runs(project, arguments, words, monkeypatch, capsys):
    (project / "raw/2011_09_26/2011_09_26_drive_0001_sync").mkdir(parents=True)
    shutil.copy(ROOT / "claims.yaml", project)
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    assert reproduce.main() == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err
    assert not (project / "results").exists()


def test_numbers_of_processors():
    assert (cores_of("3"), gpus_of("0"), gpus_of("")) == (3, 0, None)
    for read, text in ((cores_of, "0"), (cores_of, "most"), (gpus_of, "-3"), (gpus_of, "abc")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a whole number"):
            read(text)


@pytest.mark.parametrize("script", ["workflow/prose.py", "site/bundle.py"])
def test_a_script_that_is_asked_for_help_does_nothing_else(script, tmp_path):
    command = [sys.executable, ROOT / script, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: ")


def test_splits_are_those_of_the_frames():
    assert list(NAMED_SPLITS) == list(SPLITS)


def test_duration():
    assert [duration(x) for x in (0.6, 60, 185, 7620)] == [
        "1 s", "1 min 00 s", "3 min 05 s", "2 h 07 min",
    ]  # fmt: skip
