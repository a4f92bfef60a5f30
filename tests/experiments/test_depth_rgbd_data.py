"""Described RGB-D folders: crops, splits, folds and images without depth; the command; errors."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from experiments.depth.data import EveryLabels
from experiments.depth.evaluate import accuracy_of_parts
from experiments.depth.rgbd_data import DOMAINS, main, read_description, rgbd_data
from small_rgbd import random_frame, write_folder, write_frame
from ubnlib import DispNet

SIZE = (4, 6)
LISTS = {"by": "lists", "train": "train.txt", "test": "test.txt"}
TIME = {"by": "time", "train": 0.5, "gap": 0.1}
NUMBER = {"by": "number", "last_train": 5, "first_test": 7}
FOLDS = {"file": "blocks.txt", "count": 2}
BLOCKS = "# first last\n0 1\n2 4\n5 5\n6 9\n"


def described(root, beside=None, **entries):
    """Write a description of a folder, into it unless said otherwise."""
    entries = {"name": "small", "source": "random numbers", "split": NUMBER} | entries
    path = (beside or root) / "description.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(entries))
    return path


def unlabeled(root, names):
    (root / "unlabeled").mkdir(parents=True)
    for number, name in enumerate(names):
        image = Image.fromarray(random_frame(100 + number)[0])
        path = root / "unlabeled" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)


def numbers(keys):
    return [key.frame for key in keys]


def test_a_crop_is_in_pixels_of_the_depth_map(tmp_path):
    pixels, depth = random_frame(0)
    for frame in range(2):
        larger = pixels.repeat(2, 0).repeat(2, 1) if frame else pixels
        write_frame(tmp_path, str(frame), larger, depth)
    crop = {"rows": [2, 8], "columns": [3, 12]}
    split = {"by": "number", "last_train": 0, "first_test": 1}
    described(tmp_path, crop=crop, split=split, max_depth=2.5, depth_scale=1000)
    frames = rgbd_data(tmp_path, (6, 9)).frames
    assert np.array_equal(frames.image(0).permute(1, 2, 0), pixels[2:8, 3:12])
    difference = frames.image(1).permute(1, 2, 0).numpy().astype(int) - pixels[2:8, 3:12]
    assert np.abs(difference[1:-1, 1:-1]).mean() < 40  # antialiasing reaches into neighbors
    meters = depth[2:8, 3:12] / np.float32(1000)
    for index in range(2):
        assert np.array_equal(frames.depth(index), np.where(meters <= 2.5, meters, 0))


@pytest.mark.parametrize(
    ("split", "train", "test"),
    [(NUMBER, range(6), range(7, 10)), (TIME, range(5), range(6, 10)), (LISTS, [0, 3], [4, 8])],
    ids=["number", "time", "lists"],
)
def test_a_description_says_which_side_a_frame_is_on(tmp_path, split, train, test):
    write_folder(tmp_path)
    for frame in range(6, 10):
        write_frame(tmp_path, f"{frame:06d}", *random_frame(frame))
    (tmp_path / "train.txt").write_text("# numbers\n3\n000000\n\n3\n")
    (tmp_path / "test.txt").write_text("000008\n4  # a comment\n")
    described(tmp_path, split=split)
    data = rgbd_data(tmp_path, SIZE)
    assert numbers(data.train_keys) == list(train) and numbers(data.test_keys) == list(test)
    assert data.train.tolist() == list(train) and not len(data.without_depth)


def test_lists_lie_beside_a_description_elsewhere_and_names_tell_sequences_apart(tmp_path):
    for name in ("a/1", "a/2", "b/1"):
        write_frame(tmp_path / "theirs", name, *random_frame(1))
    path = described(tmp_path, tmp_path / "ours", split=LISTS)
    (tmp_path / "ours" / "train.txt").write_text("a/1\nb/1\na/7\n2\n")
    (tmp_path / "ours" / "test.txt").write_text("a/2\n")
    data = rgbd_data(tmp_path / "theirs", SIZE, path)
    assert [data.frames.names[i] for i in data.train] == ["a/1", "b/1"]
    reason = "frames of train.txt that the folder has not"
    assert data.frames.left_out == [(Path("a/7"), reason), (Path("2"), reason)]
    assert f"left out: 2 ({reason}: 2; the first: a/7)" in data.frames.report()


def test_images_without_depth_are_trained_on_and_never_labeled_or_tested(tmp_path):
    write_folder(tmp_path, range(10), (32, 32))
    described(tmp_path)
    alone = rgbd_data(tmp_path, (32, 32))
    (tmp_path / "unlabeled").mkdir()
    for name in ("right_000003", "right_000008", "far_000008"):
        image = Image.fromarray(random_frame(len(name), (32, 32))[0])
        image.save(tmp_path / "unlabeled" / f"{name}.png")
    described(tmp_path, unlabeled={"folder": "unlabeled", "twins": "right_"})
    data = rgbd_data(tmp_path, (32, 32))
    assert data.train_keys == alone.train_keys and data.test_keys == alone.test_keys
    others = [data.frames.names[i] for i in data.without_depth]
    assert others == ["far_000008", "right_000003"]  # frame 8 is tested
    labeled, rest = data.labeled(EveryLabels(k=2))
    assert labeled.tolist() == [0, 2, 4] and set(rest) == {1, 3, 5, *data.without_depth}
    assert sorted(data.train) == sorted([*labeled, *rest])
    assert not data.frames.batch(data.without_depth).depth().any()
    assert data.fingerprint.count("-") == 3 and alone.fingerprint.count("-") == 2
    net = DispNet(2.0, 0.1, 0.125, levels=4)
    parts = accuracy_of_parts(net, EveryLabels(k=1), data)
    assert set(parts) == {"labeled", "test"}  # no unlabeled frame has depth to compare with
    assert set(accuracy_of_parts(net, EveryLabels(k=2), data)) == {"labeled", "unlabeled", "test"}


def test_folds_test_each_place_once_and_its_second_views_are_not_trained_on(tmp_path):
    write_folder(tmp_path, range(11))
    unlabeled(tmp_path, ["right_000000", "room/right_000004", "right_000009"])
    (tmp_path / "blocks.txt").write_text(BLOCKS)
    described(tmp_path, folds=FOLDS, unlabeled={"folder": "unlabeled", "twins": "right_"})
    parts = [rgbd_data(tmp_path, SIZE, fold=fold) for fold in range(2)]
    assert [numbers(data.test_keys) for data in parts] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert numbers(parts[0].train_keys) == numbers(parts[1].test_keys)
    views = [[data.frames.names[i] for i in data.without_depth] for data in parts]
    assert views == [["right_000009"], ["right_000000", "room/right_000004"]]
    outside = (Path("000010"), "frames of no place in blocks.txt")
    assert parts[0].frames.left_out == [outside]


FAULTS = {
    "unknown key": (dict(crops=1), r"description\.yaml .*: crops is an unknown key; docs/rgbd"),
    "unknown key inside": (
        dict(split=NUMBER | {"gap": 1}),
        r"split, number, gap is an unknown key",
    ),
    "unknown key of a crop": (dict(crop={"rows": [0, 1], "cols": [0, 1]}), r"crop"),
    "unknown rule": (dict(split={"by": "luck"}), r"split: .*'luck'"),
    "scale": (dict(depth_scale=0), r"depth_scale: .*greater than 0"),
    "crop outside": (
        dict(crop={"rows": [0, 8], "columns": [3, 16]}),
        r"columns \[3, 16\], and the view of .*000000\.png 10 rows and 15 columns: expected a part",
    ),
    "crop of nothing": (dict(crop={"rows": [5, 5], "columns": [0, 6]}), r"rows \[5, 5\]"),
    "crop below the size": (dict(crop={"rows": [0, 3], "columns": [0, 6]}), r"3x6 .*4x6"),
    "empty test side": (
        dict(split=NUMBER | {"first_test": 50}),
        r"no frame to test on by .* small: .* 10 frames, 000000 to 000009",
    ),
    "no list": (dict(split=LISTS), r"List .*train\.txt is missing: expected it there or beside"),
    "no unlabeled folder": (dict(unlabeled={"folder": "more"}), r"Folder .*more is missing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_descriptions_are_told_in_one_sentence(tmp_path, capsys, name):
    entries, message = FAULTS[name]
    write_folder(tmp_path, range(10))
    described(tmp_path)
    rgbd_data(tmp_path, SIZE)
    described(tmp_path, **entries)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        rgbd_data(tmp_path, SIZE)
    assert "\n" not in str(caught.value)
    assert main([str(tmp_path), "--size", "4", "6"]) == 1
    assert capsys.readouterr().err == f"rgbd_data: {caught.value}\n"


def test_what_lies_outside_the_description_is_told_too(tmp_path):
    write_folder(tmp_path, range(10))
    with pytest.raises(FileNotFoundError, match=r"description\.yaml is missing: write one"):
        rgbd_data(tmp_path, SIZE)
    path = described(tmp_path, folds=FOLDS)
    with pytest.raises(ValueError, match=r"fold is 2, expected one from 0 to 1"):
        (tmp_path / "blocks.txt").write_text(BLOCKS)
        rgbd_data(tmp_path, SIZE, fold=2)
    for text, message in (("0 3\n2 9\n", "'2 9': expected rising"), ("0-3\n", "two numbers")):
        (tmp_path / "blocks.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            rgbd_data(tmp_path, SIZE, fold=0)
    with pytest.raises(ValueError, match=r"Fold 0 of kitchen: its description has no folds"):
        rgbd_data(tmp_path, SIZE, "kitchen", fold=0)
    path.write_text("name: [")
    with pytest.raises(ValueError, match=r"description\.yaml is not YAML"):
        rgbd_data(tmp_path, SIZE)
    described(tmp_path, unlabeled={"folder": "unlabeled"})
    (tmp_path / "unlabeled").mkdir()
    Image.fromarray(random_frame(0, (10, 18))[0]).save(tmp_path / "unlabeled" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png is 18x10 pixels and its depth map 15x10"):
        rgbd_data(tmp_path, SIZE)
    with pytest.raises(FileNotFoundError, match="Description attic is missing"):
        rgbd_data(tmp_path, SIZE, "attic")


def test_the_command_counts_a_folder_and_trains_on_it(tmp_path, capsys):
    root = write_folder(tmp_path / "own", range(10), (32, 32))
    described(root)
    command = [str(root), "--size", "32", "32"]
    assert main(command) == 0
    counted = capsys.readouterr().out
    assert "frames: 10, sequences: 1, left out: 0" in counted
    assert "train on: 6 with depth, 0 without; to test on: 3; on no side: 1" in counted
    run = tmp_path / "run.yaml"
    options = dict(labels={"kind": "every", "k": 2}, norm={"kind": "ubn"}, width=0.125, levels=4)
    options |= dict(labeled_batch=2, unlabeled_batch=2, steps=2, evaluations=1)
    run.write_text(yaml.safe_dump(options))
    command += ["--run", str(run), "--records", str(tmp_path / "records")]
    assert main(command) == 0
    assert "delta1 0." in capsys.readouterr().out
    assert len(list((tmp_path / "records").glob("*.json"))) == 1
    for wrong, message in ((options | {"step": 3}, "step"), ([1], "list")):
        run.write_text(yaml.safe_dump(wrong))
        assert main(command) == 1
        assert f"{run} is not a run: " in (error := capsys.readouterr().err) and message in error


def test_the_studies_descriptions_can_be_read():
    names = {path.stem for path in DOMAINS.glob("*.yaml")}
    assert names == {"kitchen", "rooms", "streets"}
    for name in names:
        description = read_description(name)
        assert description == read_description(DOMAINS / f"{name}.yaml")
        assert description.name == name and len(description.source) > 20


def test_real_streets_are_split_by_place(kitti_sample):
    root = kitti_sample / "kitti_driving"
    if not root.is_dir():
        pytest.skip("no kitti_driving in KITTI_SAMPLE")
    data = rgbd_data(root, (48, 160), "streets")
    assert (len(data.train_keys), len(data.test_keys), len(data.unlabeled_keys)) == (77, 53, 134)
    tested = []
    for fold in range(5):
        part = rgbd_data(root, (48, 160), "streets", fold=fold)
        assert 15 <= len(part.test_keys) <= 40
        tested += part.test_keys
        views = {part.frames.names[i] for i in part.without_depth}
        assert not views & {f"right_{key.frame:06d}" for key in part.test_keys}
    assert sorted(tested) == data.frames.paired


def test_real_rooms_follow_the_official_lists(kitti_sample):
    root = kitti_sample / "nyu_v2"
    if not root.is_dir():
        pytest.skip("no nyu_v2 in KITTI_SAMPLE")
    data = rgbd_data(root, (52, 69), "rooms")
    assert numbers(data.test_keys) == sorted(map(int, (root / "test.txt").read_text().split()))
    assert numbers(data.train_keys) == sorted(map(int, (root / "train.txt").read_text().split()))
    assert data.frames.left_out == []
    with Image.open(root / "depth" / "000007.png") as image:
        depth = np.array(image)[12:116, 11:149].reshape(52, 2, 69, 2).min((1, 3))
    assert np.array_equal(data.frames.depth(7), depth / np.float32(1000))
