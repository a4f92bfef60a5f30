"""The benchmark of KITTI's pipeline, run as users run it; nothing here judges a time."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.common.provenance import provenance
from small_kitti import DATE, write_root
from ubnlib.kitti import KittiRaw, prepare, project_velodyne, read_velodyne

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZE = (20, 60)
ROWS = [
    ("projection, numpy argsort", "ms", None),
    ("projection, ours", "ms", 1.2),
    ("image, decode", "ms", None),
    ("image, decode and resize", "ms", None),
    ("prepare, read and encode", "ms", 25),
    ("prepare, end to end", "ms", 25),
    ("random frame, PNG file", "ms", None),
    ("random frame, JPEG file", "ms", None),
    ("random frame, ours", "ms", 0.15),
    ("random frame, ours, as stored", "ms", None),
    ("memory copy", "GB/s", None),
    ("batch", "GB/s", 4),
    ("batch, out=", "GB/s", 4),
    ("batch, depth unpacked", "ms", None),
    ("loader, PNG files", "images/s", None),
    ("loader, JPEG files", "images/s", None),
    ("loader, ours", "images/s", None),
]


@pytest.fixture
def modules(monkeypatch):
    """The benchmark's own modules, which are no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the import of the program does for good
    import kitti_forms
    import kitti_pipeline
    import kitti_tables

    return SimpleNamespace(forms=kitti_forms, pipeline=kitti_pipeline, tables=kitti_tables)


@pytest.fixture
def packed(modules, tmp_path):
    """Three copies of seven small frames, as they are and packed."""
    raw = modules.forms.repeat_frames(write_root(tmp_path / "few"), tmp_path / "many", SIZE, 21)
    return prepare(raw, tmp_path / "packed", workers=1, progress=False), raw


def run(*arguments):
    command = [sys.executable, BENCHMARKS / "kitti_pipeline.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_run_writes_its_values_and_a_table(tmp_path, modules):
    (tmp_path / "README.md").write_text(f"# Others\n\n{modules.tables.KITTI_MARK}\n\nOld.\n")
    ended = run("--quick", "--repeats", 3, "--out", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "kitti_pipeline.json"}
    report = json.loads((tmp_path / "kitti_pipeline.json").read_text())
    assert [(row["name"], row["unit"], row["limit"]) for row in report["rows"]] == ROWS
    for row in report["rows"]:
        assert len(row["values"]) == 3
        assert all(math.isfinite(value) and value > 0 for value in row["values"])
    assert report["provenance"]["threads"] == 1
    assert report["different_frames"] == 8 and report["setting"]["frames"] == 16
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("# Others\n") and "Old." not in readme
    lines = readme.splitlines()[-len(ROWS) :]
    assert [line.split("|")[1].strip() for line in lines] == [name for name, *_ in ROWS]
    assert all(line in ended.stdout for line in lines)


@pytest.mark.parametrize(
    "options, said",
    [
        (["--repeats", "0"], "--repeats 0: it must be at least 1."),
        (["--kitti-sample", "{empty}"], "Folder {empty}/kitti_raw is missing: expected DATE/"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    tmp_path, modules, monkeypatch, capsys, options, said
):
    arguments = [option.format(empty=tmp_path) for option in options]
    monkeypatch.setattr(sys, "argv", ["kitti_pipeline.py", *arguments, "--out", str(tmp_path)])
    assert modules.pipeline.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("kitti_pipeline: " + said.format(empty=tmp_path))
    assert len(error.splitlines()) == 1 and not any(tmp_path.iterdir())


def test_frames_are_repeated_under_new_names(modules, packed, tmp_path):
    frames, raw = packed
    assert len(set(frames.keys)) == 21
    first = KittiRaw(tmp_path / "few", size=SIZE)
    sources = modules.forms.originals(raw)
    assert {sources.count(key.image_path(first.root)) for key in first.keys} == {3}
    for index, source in enumerate(sources):
        original = next(
            i for i, key in enumerate(first.keys) if key.image_path(first.root) == source
        )
        assert torch.equal(raw.image(index), first.image(original))
        assert torch.equal(raw.depth(index), first.depth(original))
    some = modules.forms.repeat_frames(first.root, tmp_path / "some", SIZE, 3).keys
    assert [(key.drive, key.camera, key.frame) for key in some] == [
        ("0001", 2, 0),
        ("0001", 3, 0),
        ("0002", 2, 1),
    ]


def check_projections(modules, raw):
    for path, matrix in modules.forms.scans(raw):
        points = read_velodyne(path)
        sorted_map = modules.forms.project_by_sorting(points, matrix, raw.size)
        ours = project_velodyne(points, matrix, raw.size)
        assert np.count_nonzero(ours) > 100
        np.testing.assert_allclose(sorted_map, ours, rtol=1e-6, atol=0)


def test_both_projections_make_the_same_map(modules, tmp_path):
    root = write_root(tmp_path / "few")
    generator = np.random.default_rng(0)
    for path in root.glob(f"{DATE}/*/velodyne_points/data/*.bin"):
        points = generator.uniform((-20, -30, -8, 0), (80, 30, 8, 1), (20_000, 4))
        points.astype(np.float32).tofile(path)  # behind, outside, and many in each pixel
    check_projections(modules, KittiRaw(root, size=SIZE))


def test_both_projections_make_the_same_map_of_real_scans(modules, kitti_sample):
    keys = KittiRaw(kitti_sample / "kitti_raw").keys[::10]
    check_projections(modules, KittiRaw(kitti_sample / "kitti_raw", size=(256, 832), keys=keys))


def test_files_hold_the_packed_frames(modules, packed, tmp_path):
    frames, raw = packed
    for suffix in ("png", "jpg"):
        modules.forms.write_files(frames, modules.forms.originals(raw), tmp_path / suffix)
        files = modules.forms.FilePerFrame(tmp_path / suffix, SIZE)
        for index, ours in enumerate(map(frames.__getitem__, range(len(frames)))):
            item = files[index]
            assert not (tmp_path / suffix / f"{index}.{suffix}").is_symlink()
            assert torch.equal(item["depth"], ours["depth"])
            difference = item["image"].permute(2, 0, 1).int() - ours["image"].int()
            assert difference.abs().max() <= (0 if suffix == "png" else 3)  # they are plain


def test_loaders_give_the_same_frames(modules, packed, tmp_path):
    frames, raw = packed
    modules.forms.write_files(frames, modules.forms.originals(raw), tmp_path / "png")
    ours = list(modules.forms.packed_steps(frames, batch=8, steps=5))
    theirs = list(modules.forms.file_steps(tmp_path / "png", frames, batch=8, steps=5))
    assert len(ours) == len(theirs) == 5
    for (labeled, unlabeled), (with_depth, without) in zip(ours, theirs, strict=True):
        assert torch.equal(with_depth["image"].permute(0, 3, 1, 2), labeled.images)
        assert torch.equal(without["image"].permute(0, 3, 1, 2), unlabeled.images)
        assert torch.equal(with_depth["depth"], labeled.depth()) and "depth" not in without
        assert (len(labeled.images), len(unlabeled.images)) == (2, 6)


def test_table_judges_times_and_rates(modules):
    def row(name, unit, values, limit=None, rival=None):
        return modules.tables.Row(name=name, unit=unit, values=values, limit=limit, rival=rival)

    rows = [
        row("slow", "ms", [4.0] * 9),
        row("fast", "ms", [1.0] * 9, 1.2, "slow"),
        row("late", "ms", [2.0] * 9, 1.2),
        row("wide", "ms", [1, 1, 1, 1, 1.1, 9, 9, 9, 9], 1.2),
        row("copy", "GB/s", [8.0] * 9),
        row("half", "GB/s", [4.0] * 9, 5, "copy"),
        row("full", "GB/s", [1234.0] * 9, 5),
        row("few", "GB/s", [5.0, 7.0], 6),
    ]
    report = modules.tables.Report(
        setting=modules.tables.Setting(real=True, repeats=9),
        different_frames=51,
        points_per_scan=113_325,
        packed_gigabytes=0.28,
        l3_cache="1K",
        rows=rows,
        provenance=provenance(),
    )
    text = report.markdown()
    assert "400 frames of KITTI Raw at 256 x 832, copies of 51 different ones." in text
    assert "113,325 points" in text and "a packed folder of 32\nframes" in text
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[-8:]]
    assert lines == [
        ["slow", "4 [4, 4]", "ms", "", ""],
        ["fast", "1 [1, 1]", "ms", "4.00 [4.00, 4.00]: slow", "at most 1.2: **met**"],
        ["late", "2 [2, 2]", "ms", "", "at most 1.2: **missed**"],
        ["wide", "1.1 [1, 9]", "ms", "", "at most 1.2: **unclear**"],
        ["copy", "8 [8, 8]", "GB/s", "", ""],
        ["half", "4 [4, 4]", "GB/s", "0.50 [0.50, 0.50]: copy", "at least 5: **missed**"],
        ["full", "1234 [1234, 1234]", "GB/s", "", "at least 5: **met**"],
        ["few", "6", "GB/s", "", "at least 6: **met**"],
    ]
