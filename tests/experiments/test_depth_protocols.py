"""KITTI's test images by the field's protocols, improved depth maps, and a run's evaluation."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from experiments.common.records import record_path
from experiments.depth import protocols
from experiments.depth.config import DepthConfig
from experiments.depth.data import EveryLabels, split_data
from experiments.depth.engine import EngineConfig
from experiments.depth.evaluate import resize_depth
from experiments.depth.packing import find_split
from experiments.depth.protocols import ImprovedGroundTruth, evaluate_protocols, read_depth_png
from experiments.depth.train import obtain_depth
from ubnlib.kitti import (
    Calibration,
    FrameKey,
    KittiRaw,
    load_split,
    prepare,
    project_velodyne,
    read_velodyne,
)

# The protocols


def as_monodepth2(predicted, target, benchmark, scaled):
    """What its `evaluate_depth.py` computes of one image, written anew: abs_rel and delta1."""
    if benchmark:
        mask = target > 0
    else:
        height, width = target.shape
        box = np.array([0.40810811 * height, 0.99189189 * height, 0.03594771 * width,
                        0.96405229 * width]).astype(np.int32)  # fmt: skip
        inside = np.zeros(target.shape, bool)
        inside[box[0] : box[1], box[2] : box[3]] = True
        mask = (target > 1e-3) & (target < 80) & inside
    p, t = predicted[mask], target[mask]
    p = np.clip(p * (np.median(t) / np.median(p) if scaled else 1), 1e-3, 80)
    return np.mean(np.abs(p - t) / t), (np.maximum(p / t, t / p) < 1.25).mean()


class Truth(dict):
    def depth(self, key):
        return torch.from_numpy(self[key])

    def available(self, keys):
        return [key for key in keys if key in self]


def test_protocols_agree_with_monodepth2s_evaluation():
    generator = np.random.default_rng(0)
    some = [key for key in load_split("eigen_test_697") if key.drive == "0052"]
    improved_keys = set(load_split("eigen_test_652"))
    lidar, improved, maps = Truth(), Truth(), {}
    for key in some:
        maps[key] = torch.from_numpy(generator.uniform(2, 80, (12, 40)))
        for truth, density in ((lidar, 0.05), (improved, 0.2)):
            depth = generator.uniform(1, 110, (37, 122))
            truth[key] = np.where(generator.uniform(size=depth.shape) < density, depth, 0)
    del improved[some[3]]
    table = evaluate_protocols(maps, lidar.depth, improved)
    assert list(table["of"]) == [697, 697, 652, 652, 652, 652]
    for row in table.itertuples():
        truth = improved if "improved" in row.protocol else lidar
        keys = [k for k in some if k in truth and (truth is lidar or k in improved_keys)]
        assert row.images == len(keys)
        if row.protocol == "eigen, improved":
            continue
        expected = [
            as_monodepth2(
                resize_depth(maps[key][None], (37, 122))[0].numpy(),
                truth[key],
                row.protocol.startswith("monodepth2"),
                row.median_scaling,
            )
            for key in keys
        ]
        assert (row.abs_rel, row.delta1) == pytest.approx(tuple(np.mean(expected, axis=0)))
    alone = evaluate_protocols(maps, lidar.depth, None)
    pd.testing.assert_frame_equal(alone, table[:2])


def test_a_trained_run_is_evaluated_by_one_command(kitti_sample, tmp_path, monkeypatch, capsys):
    """On real frames: trained on drive 0001, evaluated on what there is of the test drives."""
    root, records = kitti_sample / "kitti_raw", tmp_path / "records"
    raw, sides = find_split(root, split="eigen", cameras=(2, 3), size=(64, 128))
    assert {key.drive for key in sides.train.present} == {"0001"}
    packed = prepare(raw, tmp_path / "packed", progress=False)
    data = split_data(packed, "eigen")
    config = DepthConfig(
        data=data.fingerprint, labels=EveryLabels(k=2), width=0.1, levels=4, labeled_batch=2,
        unlabeled_batch=2, steps=2, evaluations=1, engine=EngineConfig(passes="two"),
    )  # fmt: skip
    record = obtain_depth(config, data, records, weights=tmp_path / "weights")

    def evaluate(*options):
        monkeypatch.chdir(records)
        path = record_path(record, records).name
        monkeypatch.setattr("sys.argv", ["evaluate", path, str(root), *options])
        return protocols.main(), capsys.readouterr()

    code, said = evaluate()
    assert code == 1 and "does not say the size of the images" in said.err
    code, said = evaluate("--size", "64", "128", "--improved", str(kitti_sample / "kitti_depth"))
    count = len(sides.test.present)
    assert code == 0 and f"{count} of 697 images" in said.out and "Not an Eigen" not in said.out
    table = pd.read_csv(tmp_path / "evaluation" / f"{record.key}.csv")
    assert list(table["images"]) == [count, count] and table["delta1"].between(0, 1).all()
    (tmp_path / "weights" / f"{record.key}.pt").unlink()
    code, said = evaluate("--size", "64", "128")
    assert code == 1 and "are missing: train it with --weights" in said.err


def test_labels_of_test_drives_are_told():
    record = protocols.Record.model_construct(
        frames={"labeled": ["2011_09_26_drive_0001 2,3 0-4", "2011_09_26_drive_0052 2 0-4"]}
    )
    assert protocols.trained_on_tests(record) == ["2011_09_26_drive_0052"]


# Improved depth maps

KEY = FrameKey("2000_01_01", "0003", 2, 5)
PIXELS = np.array([[0, 1, 256, 65535], [25600, 300, 0, 20480]], np.uint16)


def path_of(root, key, part="train"):
    inside = f"proj_depth/groundtruth/image_0{key.camera}/{key.frame:010d}.png"
    return root / part / f"{key.date}_drive_{key.drive}_sync" / inside


def write_depth(path, pixels=PIXELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_depth_is_the_pixels_in_meters(tmp_path):
    depth = read_depth_png(str(write_depth(tmp_path / "map.png")))
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, [[0, 1 / 256, 1, 255.99609375], [100, 1.171875, 0, 80]])


def test_maps_are_found_by_key_in_either_part(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds neither train nor val"):
        ImprovedGroundTruth(tmp_path)
    other = KEY._replace(drive="0004", camera=3, frame=1234567890)
    write_depth(path_of(tmp_path, KEY))
    write_depth(path_of(tmp_path, other, "val"), PIXELS + 1)
    truth = ImprovedGroundTruth(str(tmp_path))
    assert truth.path(KEY) == path_of(tmp_path, KEY)
    assert truth.path(other) == path_of(tmp_path, other, "val")
    depth = truth.depth(other)
    assert depth.dtype == torch.float32 and depth.shape == (2, 4)
    assert depth[0, 2] == 257 / 256 and truth.depth(KEY)[0, 2] == 1.0
    missing = KEY._replace(frame=6), KEY._replace(camera=3), KEY._replace(date="2000_01_02")
    assert truth.available([missing[0], other, *missing[1:], KEY]) == [other, KEY]
    for key in missing:
        with pytest.raises(FileNotFoundError, match=f"{key.frame:010d}.png is missing.*available"):
            truth.depth(key)


def test_other_files_are_refused(tmp_path):
    path = write_depth(tmp_path / "map.png", (PIXELS // 256).astype(np.uint8))
    with pytest.raises(ValueError, match=f"{path} is of Pillow's mode L: expected a whole 16"):
        read_depth_png(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=f"{path} cannot be read .*: expected a whole 16"):
        read_depth_png(path)


def test_damaged_files_are_refused_or_read_right(tmp_path):
    # In a sparse map of this kind, Pillow alone takes one damaged byte in twenty for depth.
    generator = np.random.default_rng(0)
    pixels = generator.integers(1, 65536, (20, 30)).astype(np.uint16)
    pixels[generator.uniform(size=pixels.shape) > 0.1] = 0
    path = write_depth(tmp_path / "map.png", pixels)
    content, refused = path.read_bytes(), 0
    cut = [content[:length] for length in range(len(content))]
    flipped = [
        content[:place] + bytes([byte ^ bits]) + content[place + 1 :]
        for place, byte in enumerate(content)
        for bits in (1, 255)
    ]
    for damaged in (*cut, *flipped):
        path.write_bytes(damaged)
        try:
            depth = read_depth_png(path)
        except ValueError as error:
            assert "expected a whole 16-bit grayscale PNG" in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(depth, pixels.astype(np.float32) / 256)
    assert refused > 0.95 * 3 * len(content) > 700


def test_real_maps_agree_with_the_scan(kitti_sample):
    key = FrameKey("2011_09_26", "0001", 3, 5)
    truth = ImprovedGroundTruth(kitti_sample / "kitti_depth")
    assert truth.available([key._replace(frame=4), key]) == [key]
    improved = truth.depth(key).numpy()
    with Image.open(truth.path(key)) as image:
        np.testing.assert_array_equal(improved * 256, np.array(image).astype(np.int64))
    assert improved.shape == (375, 1242)
    root = kitti_sample / "kitti_raw"
    projection = Calibration.load(root / key.date).projection(key.camera)
    raw = KittiRaw(root, cameras=(3,), keys=[key])
    scan = project_velodyne(read_velodyne(raw.files(key)[1]), projection, improved.shape)
    assert (improved > 0).sum() > 3 * (scan > 0).sum()  # several scans accumulated
    both = (improved > 0) & (scan > 0)
    relative = np.abs(scan[both] / improved[both] - 1)
    assert both.sum() > 5000 and np.median(relative) < 0.015 and np.mean(relative < 0.05) > 0.95
