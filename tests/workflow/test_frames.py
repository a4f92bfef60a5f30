"""The frames of the depth runs: what a plan says of them, their split, and a job's memory."""

import json
import shutil

import pytest

from frames import plan_frames, prepare_frames, read_frames
from parameters import run_parameters
from plan import make_plan, memory_of, text_of, write_plan
from small_project import depth_project

project = depth_project


def test_frames_of_synthetic_drives_and_what_a_plan_says(project, monkeypatch, tiny_kitti):
    monkeypatch.chdir(project)
    shutil.copytree(tiny_kitti, project / "raw")
    results = project / "results" / "small-kitti"
    values = run_parameters("small", project, results, str(project / "raw"), "by_drive")
    depth = values["03_depth_experiments"]
    before = plan_frames(depth, 2)
    assert "split by_drive, to train on: 6 images, drives: 1" in before and "GB needed" in before
    found = prepare_frames(depth, 1)
    assert "split by_drive, to test on: 6 images, drives: 1" in found["report"]
    (results / "frames.json").parent.mkdir(parents=True)
    (results / "frames.json").write_text(json.dumps(found))
    assert read_frames(results / "frames.json", depth) == found
    assert read_frames(results / "frames.json", depth | {"split": "eigen"}) is None
    plan = make_plan("small", results, values)
    assert found["report"] in text_of(plan, 1)
    image = next((project / "raw").rglob("image_02/data/*.png"))
    image.write_bytes(image.read_bytes() + bytes(1))  # as if it had been repaired
    assert read_frames(results / "frames.json", depth) is None
    image.write_bytes(image.read_bytes()[:-1])
    jobs = json.loads(write_plan(plan, 1).read_text())["jobs"]
    assert {job["memory"] for job in jobs.values()} <= {
        memory_of(planned.run.config, depth["frames"]["size"]) for planned in plan.runs
    }


def test_memory_is_by_image_size_and_batch(project):
    values = run_parameters("small", project, project / "results")
    config = make_plan("small", project / "results", values).runs[-1].run.config
    paper = config.model_copy(update={"width": 1.0, "labeled_batch": 2, "unlabeled_batch": 2})
    assert memory_of(paper, (256, 832)) == pytest.approx(2200, rel=0.15)  # 1.2 GB are the step's
    batch = paper.model_copy(update={"labeled_batch": 32, "unlabeled_batch": 96})
    assert 30_000 < memory_of(batch, (256, 832)) < 40_000
    assert memory_of(batch, (128, 416)) < memory_of(batch, (256, 832)) / 3
