"""The shipped splits: their counts, what they share, and the published lists they come from."""

import importlib.util
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitti_drives import EIGEN_TEST_DRIVES, load_catalog
from ubnlib.kitti import splits
from ubnlib.kitti.raw import FrameKey
from ubnlib.kitti.splits import SPLITS, compact, digest, load_split, select

LISTS = Path(splits.__file__).parent / "split_lists"
SCRIPT = Path(__file__).parents[2] / "data_scripts" / "make_splits.py"
PUBLISHED = {
    "eigen_train": "eigen_full_train.txt",
    "eigen_val": "eigen_full_val.txt",
    "eigen_test_697": "eigen_test_697.txt",
    "eigen_test_652": "eigen_benchmark_652.txt",
}
FRAME = "{0}/{0}_drive_{1}_sync {2:010d} {3}"
VALIDATION = {f"2011_09_26_drive_{number}" for number in ("0028", "0032", "0070")}


@pytest.fixture(scope="module")
def shipped():
    return {name: set(load_split(name)) for name in SPLITS}


def drives(keys):
    return {key.drive_name for key in keys}


@pytest.mark.parametrize(
    ("name", "count", "n_drives", "fingerprint"),
    [
        ("eigen_train", 45_200, 33, "d0bc3b1502222cf3"),
        ("eigen_val", 1_776, 33, "6cf5266f1df838ac"),
        ("eigen_test_697", 697, 28, "287d80b82418ba24"),
        ("eigen_test_652", 652, 28, "4b525d2a7d18b10b"),
        ("paper_standin_train", 41_872, 30, "0b37e901ff3fa732"),
        ("paper_standin_val", 2_480, 3, "71dfc653355d8e6c"),
    ],
)
def test_counts_drives_and_digests(name, count, n_drives, fingerprint):
    keys = load_split(name)
    assert len(keys) == len(set(keys)) == SPLITS[name].count == count
    assert keys == sorted(keys)
    assert len(drives(keys)) == n_drives
    assert digest(keys) == fingerprint


def test_every_file_is_a_split_says_its_count_and_is_canonical():
    assert sorted(path.stem for path in LISTS.iterdir()) == sorted(SPLITS)
    for name, split in SPLITS.items():
        lines = (LISTS / f"{name}.txt").read_text().splitlines()
        comments = [line for line in lines if line.startswith("#")]
        assert comments[0] == f"# {split.description}."
        assert comments[1].startswith(f"# Count: {split.count:,} images, ")
        assert comments[2].startswith("# Source: ") and max(map(len, comments)) <= 100
        assert lines == comments + compact(load_split(name))
        replayed = " ".join(line.removeprefix("# ") for line in comments)
        assert ("cannot be replayed" in replayed) == name.startswith("paper_standin")


def test_cameras(shipped):
    for name, keys in shipped.items():
        count = Counter(key.camera for key in keys)
        left = len(keys) if "test" in name else len(keys) // 2
        assert count == Counter({2: left, 3: len(keys) - left})


def test_no_frame_is_in_two_splits_and_no_drive_in_train_and_test(shipped):
    assert not shipped["eigen_train"] & shipped["eigen_val"]
    assert not drives(shipped["eigen_train"] | shipped["eigen_val"]) & EIGEN_TEST_DRIVES
    assert drives(shipped["paper_standin_train"]).isdisjoint(drives(shipped["paper_standin_val"]))
    standin = shipped["paper_standin_train"] | shipped["paper_standin_val"]
    assert not drives(standin) & EIGEN_TEST_DRIVES


def test_test_lists(shipped):
    assert drives(shipped["eigen_test_697"]) == EIGEN_TEST_DRIVES
    assert len(EIGEN_TEST_DRIVES) == 28
    assert shipped["eigen_test_652"] < shipped["eigen_test_697"]
    assert drives(shipped["eigen_test_652"]) == EIGEN_TEST_DRIVES
    frames = {drive.name: drive.frames for drive in load_catalog()}
    assert all(key.frame < frames[key.drive_name] for key in shipped["eigen_test_697"])
    # These scans of a test drive do not exist.
    missing = {FrameKey("2011_09_26", "0009", 2, frame) for frame in range(177, 181)}
    assert not missing & shipped["eigen_test_697"]


def test_eigen_train_and_val_are_33_whole_drives(shipped):
    frames = {d.name: d.frames for d in load_catalog() if d.name not in EIGEN_TEST_DRIVES}
    found = Counter((key.drive_name, key.camera) for key in shipped["eigen_train"])
    found += Counter((key.drive_name, key.camera) for key in shipped["eigen_val"])
    expected = {(name, camera): count for name, count in frames.items() for camera in (2, 3)}
    assert found == expected and sum(expected.values()) == 46_976


def test_standin_is_the_eigen_train_drives_without_static_frames(shipped):
    train, val = shipped["paper_standin_train"], shipped["paper_standin_val"]
    eigen = shipped["eigen_train"] | shipped["eigen_val"]
    assert drives(val) == VALIDATION and drives(train) == drives(eigen) - VALIDATION
    assert val == {key for key in eigen if key.drive_name in VALIDATION}
    assert train < eigen
    assert {key._replace(camera=5 - key.camera) for key in train} == train  # both cameras or none


def test_splits_are_the_published_lists_line_by_line(kitti_sample, shipped):
    for name, file in PUBLISHED.items():
        lines = (kitti_sample / "splits" / file).read_text().split("\n")
        published = []
        for line in filter(None, lines):
            folder, frame, side = line.split(" ")
            date, drive = folder[:10], folder[28:32]
            assert folder == f"{date}/{date}_drive_{drive}_sync"
            published.append(FrameKey(date, drive, {"l": 2, "r": 3}[side], int(frame)))
        assert len(published) == SPLITS[name].count and set(published) == shipped[name]
    scenes = (kitti_sample / "splits" / "test_scenes_eigen.txt").read_text().split()
    assert drives(shipped["eigen_test_697"]) == set(scenes)


def test_standin_leaves_out_the_static_frames_and_no_others(kitti_sample, shipped):
    static = {
        (folder.removesuffix("_sync"), int(frame))
        for _, folder, frame in map(
            str.split, (kitti_sample / "splits" / "static_frames.txt").read_text().splitlines()
        )
    }
    assert len(static) == 8_044
    standin = shipped["paper_standin_train"] | shipped["paper_standin_val"]
    assert not {(key.drive_name, key.frame) for key in standin} & static
    left_out = (shipped["eigen_train"] | shipped["eigen_val"]) - standin
    assert len(left_out) == 2_624
    assert {(key.drive_name, key.frame) for key in left_out} <= static


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match=r"no split 'eigen'.*eigen_train, .*paper_standin_val"):
        load_split("eigen")


def test_a_changed_or_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(splits.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"eigen_test_697\.txt is missing.*install"):
        load_split("eigen_test_697")
    path = tmp_path / "split_lists" / "eigen_test_697.txt"
    path.parent.mkdir()
    whole = (LISTS / path.name).read_text()
    path.write_text(whole)
    assert len(load_split("eigen_test_697")) == 697
    path.write_text(whole[: len(whole) // 2].rpartition("\n")[0])
    with pytest.raises(ValueError, match=r"eigen_test_697\.txt .* names \d+ images: expected 697"):
        load_split("eigen_test_697")
    path.write_text(whole + "junk\n")
    with pytest.raises(ValueError, match=r"Line \d+ of split_lists/eigen_test_697\.txt is 'junk'"):
        load_split("eigen_test_697")


numbers = st.integers(0, 12)
some_keys = st.builds(
    FrameKey, st.just("2000_01_01"), st.sampled_from(["0001", "0002"]), st.just(2), numbers
)


@given(st.lists(some_keys, unique=True), st.sets(some_keys))
@settings(deadline=None)
def test_select_finds_what_is_there(available, wanted):
    selection = select(available, wanted)
    assert selection.present == tuple(available[index] for index in selection.indices)
    assert sorted(set(selection.indices)) == list(selection.indices)
    assert set(selection.present) == wanted & set(available)
    assert selection.missing == tuple(sorted(wanted - set(available)))
    for name, (here, total) in selection.drives.items():
        assert total == sum(key.drive_name == name for key in wanted) > 0
        assert here == sum(key.drive_name == name for key in wanted & set(available))
    assert list(selection.drives) == sorted(drives(wanted))


def test_selection_is_reported_in_one_sentence():
    wanted = [FrameKey("2000_01_01", f"{n:04d}", 2, f) for n in range(5) for f in range(3)]
    assert select(wanted, wanted).report() == (
        "15 of the split's 15 images are there; drives: 5, all complete."
    )
    selection = select([*wanted[1:3], *wanted[6:9]], wanted)
    assert selection.report(shown=2) == (
        "5 of the split's 15 images are there; 4 of its 5 drives are incomplete: "
        "2000_01_01_drive_0000 has 2 of 3, 2000_01_01_drive_0001 has 0 of 3, and 2 more."
    )
    assert selection.report(shown=4).endswith("2000_01_01_drive_0004 has 0 of 3.")
    assert select([], wanted).report(0).endswith("5 of its 5 drives are incomplete: and 5 more.")


@pytest.fixture(scope="module")
def make_splits():
    specification = importlib.util.spec_from_file_location("make_splits", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory, shipped):
    """Lists in the published form that say what the shipped files say."""
    folder = tmp_path_factory.mktemp("rebuilt")

    def write(file, lines):
        (folder / file).write_text("".join(f"{line}\n" for line in lines))

    for name, file in PUBLISHED.items():
        keys = sorted(shipped[name], reverse=True)
        write(file, (FRAME.format(k.date, k.drive, k.frame, "??lr"[k.camera]) for k in keys))
    standin = shipped["paper_standin_train"] | shipped["paper_standin_val"]
    static = {k for k in (shipped["eigen_train"] | shipped["eigen_val"]) - standin if k.camera == 2}
    write("static_frames.txt", (f"{k.date} {k.drive_name}_sync {k.frame:010d}" for k in static))
    write("test_scenes_eigen.txt", EIGEN_TEST_DRIVES)
    return folder


@pytest.fixture
def published(rebuilt, tmp_path):
    """A copy of these lists to damage."""
    return shutil.copytree(rebuilt, tmp_path / "published")


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["make_splits.py", *map(str, arguments)])
    return module.main()


def test_the_script_makes_the_shipped_files(make_splits, published, monkeypatch, capsys):
    output = published / "made"
    assert run(make_splits, monkeypatch, published, "--output", output) == 0
    assert "eigen_train: 45200 images\n" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in output.iterdir()} == {
        p.name: p.read_bytes() for p in LISTS.iterdir()
    }
    changed = output / "eigen_val.txt"
    changed.write_text(changed.read_text().replace("# Count: 1,776", "# Count: 1,777"))
    assert run(make_splits, monkeypatch, published, "--output", output, "--check") == 1
    assert re.search(r"eigen_val\.txt differs from the published", capsys.readouterr().err)
    assert "1,777" in changed.read_text()


def test_the_script_checks_the_shipped_files_against_the_published_lists(
    make_splits, kitti_sample, monkeypatch
):
    assert run(make_splits, monkeypatch, kitti_sample / "splits", "--check") == 0


TRAIN, VAL, TEST, BENCHMARK = PUBLISHED.values()


def extra(drive, frame):
    return FRAME.format("2011_09_26", drive, frame, "l")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (TRAIN, lambda lines: lines[1:], "train and val together are their drives, whole"),
        (TRAIN, lambda lines: [*lines, extra("9999", 0)], "their drives, whole"),
        (
            TRAIN,
            lambda lines: [*lines, lines[4]],
            r"eigen_full_train\.txt names frames again on 1 lines",
        ),
        (VAL, lambda lines: [lines[0], "oops", *lines], r"Line 2 of .*val\.txt is 'oops': expect"),
        (VAL, lambda lines: [extra("0001", 1), *lines], "no frame in common"),
        (TEST, lambda lines: lines[25:], "the 697 test images cover the 28 test drives"),
        (TEST, lambda lines: lines[:-1], "eigen_test_697 has 696 images: expected 697"),
        (BENCHMARK, lambda lines: [*lines, extra("0002", 1)], "among the 697"),
        (BENCHMARK, lambda lines: lines[1:], "eigen_test_652 has 651 images: expected 652"),
        ("test_scenes_eigen.txt", lambda lines: lines[1:], "cover the 28 test drives"),
        ("static_frames.txt", lambda lines: lines[1:], "train has 41874 images: expected 41872"),
        ("static_frames.txt", lambda lines: [*lines, "2011_09_26"], r"Line 1313 of .*static_fra"),
        ("static_frames.txt", None, r"No such file.*static_frames\.txt"),
    ],
)
def test_the_script_refuses_lists_that_are_not_the_published_ones(
    make_splits, published, monkeypatch, capsys, file, change, message
):
    path = published / file
    if change is None:
        path.unlink()
    else:
        path.write_text("\n".join(change(path.read_text().splitlines())))
    output = published / "made"
    assert run(make_splits, monkeypatch, published, "--output", output) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and error.startswith("make_splits: ")
    assert error.count("\n") == 1 and not output.exists()
