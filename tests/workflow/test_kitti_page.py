"""The page on KITTI says what the code does: its blocks run on real frames, its counts are true."""

import re
from pathlib import Path

import torch

from ubnlib.dispnet import DispNet
from ubnlib.kitti import KittiRaw, PackedDepth, prepare
from ubnlib.kitti.splits import SPLITS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kitti.md").read_text()
BLOCKS = re.findall(r"^```python\n((?:.*\n)*?)```$", PAGE, re.MULTILINE)


def test_counts_of_the_table_are_those_of_the_splits():
    counts = {}
    for names, images in re.findall(r"^\| (`[`\w, ]+`) \| ([^|]+) \|", PAGE, re.MULTILINE):
        numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", images)]
        counts |= dict(zip(re.findall(r"`(\w+)`", names), numbers, strict=False))
    assert {name: counts[name] for name in SPLITS} == {n: s.count for n, s in SPLITS.items()}


def test_blocks_run_on_real_frames(kitti_sample, tmp_path, monkeypatch):
    for name in ("kitti_raw", "kitti_depth"):
        (tmp_path / name).symlink_to(kitti_sample / name)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    prepare(KittiRaw("kitti_raw", size=(64, 128)), "packed", progress=False)
    names = {"net": DispNet(width=0.1)}
    projection, loading, evaluation = BLOCKS
    exec(projection, names)
    assert names["depth"].shape == (375, 1242) and (names["depth"] > 0).sum() > 15_000
    names["KittiRaw"] = KittiRaw
    loading = loading.replace("50_000", "2").replace("workers=2", "workers=0")
    exec(loading, names)
    assert names["images"].shape == (32, 3, 64, 128) and names["target"].shape == (32, 64, 128)
    assert names["labeled"].counts.min() > 1000
    # Of the 652 images none is among the few real frames: the one with ground truth stands in.
    truth = [key for key in PackedDepth("packed").keys if key[1:] == ("0001", 2, 5)]
    names["truth"] = truth
    exec(evaluation.replace('load_split("eigen_test_652")', "truth"), names)
    assert names["result"].keys == tuple(truth)
    assert 0 <= names["result"].means["delta1"] <= 1
