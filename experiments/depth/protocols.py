"""KITTI's test images by the protocols of the field: which images and targets, what is evaluated.

    python -m experiments.depth.evaluate RECORD kitti_raw --improved kitti_depth

prints a trained run's seven metrics by each protocol, as it is and with each prediction scaled to
its target's median, and writes them as a table. docs/kitti.md says how the protocols differ.

The improved depth maps, several scans accumulated and checked against stereo, are those of J. Uhrig
et al., "Sparsity Invariant CNNs" (3DV 2017): `data_depth_annotated.zip` of KITTI's depth benchmark.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.common.files import whole
from experiments.common.records import Record, read_record
from experiments.depth.config import DepthConfig
from experiments.depth.engine import load_weights
from experiments.depth.evaluate import evaluate_depth, predict_depth
from experiments.depth.train import weights_path
from ubnlib.dispnet import DispNet
from ubnlib.kitti import FrameKey, KittiRaw, load_split, select
from ubnlib.kitti.raw import read_png
from ubnlib.metrics import Crop

PARTS = ("train", "val")  # of the improved depth maps


class Protocol(NamedTuple):
    """Which test images, what they are compared with, and in which pixels."""

    split: str
    improved: bool  # whether the target is the improved depth map, else the scan
    crop: Crop | None
    cut_targets: bool  # whether targets beyond 80 m are left out


PROTOCOLS = {
    "eigen, lidar": Protocol("eigen_test_697", False, "garg", True),
    "eigen, improved": Protocol("eigen_test_652", True, "garg", True),
    "monodepth2, improved": Protocol("eigen_test_652", True, None, False),
}


class ImprovedGroundTruth:
    """The improved depth maps of KITTI, by frame; a drive's first and last five have none.

    The root holds `train/DATE_drive_NNNN_sync/proj_depth/groundtruth/image_02/FFFFFFFFFF.png` and
    so on, `val` or both; a FileNotFoundError says that it has neither.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        if not any((self.root / part).is_dir() for part in PARTS):
            advice = "extract data_depth_annotated.zip there"
            raise FileNotFoundError(f"Folder {self.root} holds neither train nor val: {advice}.")

    def path(self, key: FrameKey) -> Path:
        """Return the path of a frame's depth map, in `train` if neither folder has the drive."""
        folders = [self.root / part / f"{key.drive_name}_sync" for part in PARTS]
        folder = next((folder for folder in folders if folder.is_dir()), folders[0])
        return folder / f"proj_depth/groundtruth/image_{key.camera:02d}/{key.frame:010d}.png"

    def depth(self, key: FrameKey) -> torch.Tensor:
        """Read a frame's depth map: float32 [H, W] in meters, as `read_depth_png` does."""
        return torch.from_numpy(read_depth_png(self.path(key)))

    def available(self, keys: Iterable[FrameKey]) -> list[FrameKey]:
        """Return the frames that have a depth map, in the order given."""
        return [key for key in keys if self.path(key).is_file()]


def read_depth_png(path: Path | str) -> np.ndarray:
    """Read a 16-bit grayscale PNG of 256 times the meters: float32 [H, W], 0 = no measurement.

    A missing file is a FileNotFoundError, anything but a whole such PNG a ValueError.
    """
    path = Path(path)
    if not path.is_file():
        advice = "some drives and the ends of all others have none; ask `available` for the rest"
        raise FileNotFoundError(f"Depth map {path} is missing: {advice}.")
    expected = "a whole 16-bit grayscale PNG of KITTI's depth maps"
    image = read_png(path, "Depth map", expected)
    if image.mode != "I;16":
        found = f"Depth map {path} is of Pillow's mode {image.mode}"
        raise ValueError(f"{found}: expected {expected}; extract it again.")
    return np.array(image).astype(np.float32) / 256


# --- a trained run --------------------------------------------------------------------------------


def evaluate_protocols(
    predictions: Mapping[FrameKey, Tensor],
    lidar: Callable[[FrameKey], Tensor],
    improved: ImprovedGroundTruth | None,
) -> pd.DataFrame:
    """Return the means of predicted depth maps, [h, w] in meters, by protocol and scaling.

    Lidar maps are [H, W] in meters, 0 = no return. Without improved maps their protocols are left
    out. `images` counts those evaluated, `of` those of the protocol's list.
    """
    rows = []
    for name, (split, is_improved, crop, cut) in PROTOCOLS.items():
        wanted = load_split(split)
        keys = select(predictions, wanted).present
        if is_improved:
            keys = improved.available(keys) if improved else ()
        for scaled in (False, True) if keys else ():
            result = evaluate_depth(
                ((key, predictions[key]) for key in keys),
                improved.depth if is_improved else lidar,
                crop=crop,
                cut_targets=cut,
                median_scaling=scaled,
            )
            counts = dict(images=len(keys) - len(result.left_out), of=len(wanted))
            rows.append(dict(protocol=name, median_scaling=scaled, **counts, **result.means))
    return pd.DataFrame(rows)


def predict_tests(
    net: DispNet, root: Path, size: tuple[int, int], batch: int = 16
) -> dict[FrameKey, Tensor]:
    """Return a net's depth map, [h, w] in meters, of each Eigen test image below a KITTI folder."""
    there = KittiRaw(root, cameras=(2,))
    keys = select(there.keys, load_split("eigen_test_697"))
    print(f"Eigen test, left camera: {keys.report()}")
    if not keys.present:
        raise ValueError(f"{root} holds no Eigen test image: download the drives of eigen_test.")
    small = KittiRaw(root, cameras=(2,), size=size, keys=keys.present)
    maps = {}
    for some in torch.arange(len(small)).split(batch):
        images = torch.stack([small.image(index) for index in some.tolist()])
        maps |= zip((small.keys[i] for i in some), predict_depth(net, images, batch), strict=True)
    return maps


def load_run(path: Path, weights: Path | None) -> tuple[Record, DispNet]:
    """Return a depth run's record and its trained net, by default from `weights` beside records."""
    record = read_record(path)
    if record.experiment != "depth":
        raise ValueError(
            f"{path} is a record of {record.experiment!r}: expected one of a depth run."
        )
    config = DepthConfig.model_validate(record.config)
    file = weights or weights_path(config, path.parents[1] / "weights")
    if not file.is_file():
        advice = "train it with --weights, or name the file with --weights here"
        raise FileNotFoundError(f"The weights of {path}, {file}, are missing: {advice}.")
    net = config.net()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return record, load_weights(net, file).to(device)


def trained_on_tests(record: Record) -> list[str]:
    """Return the Eigen test drives of which a run had labels, and so is no Eigen result."""
    tested = {key.drive_name for key in load_split("eigen_test_697")}
    return sorted(tested & {line.split()[0] for line in record.frames.get("labeled", ())})


# --- from the command line ------------------------------------------------------------------------


def main() -> int:
    """Evaluate a trained run, print the table and write it."""
    arguments = parse()
    try:
        record, net = load_run(arguments.record, arguments.weights)
        size = arguments.size or trained_size(arguments.record.parents[1] / "frames.json")
        truth = ImprovedGroundTruth(arguments.improved) if arguments.improved else None
        maps = predict_tests(net, arguments.root, tuple(size))
        native = KittiRaw(arguments.root, cameras=(2,), keys=maps)
        table = evaluate_protocols(maps, lambda key: native.depth(native.index(key)), truth)
    except (ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    print(table.round(3).to_string(index=False))
    if drives := trained_on_tests(record):
        print(f"Not an Eigen result: the run was trained on test drives {', '.join(drives)}.")
    target = arguments.record.parents[1] / "evaluation" / f"{record.key}.csv"
    with whole(target) as partial:
        table.to_csv(partial, index=False)
    print(target)
    return 0


def trained_size(frames: Path) -> list[int]:
    """Return the height and width of the frames that the workflow packed for its runs."""
    try:
        return json.loads(frames.read_text(encoding="utf-8"))["asked"]["frames"]["size"]
    except (OSError, ValueError, KeyError) as error:
        missing = f"{frames} does not say the size of the images that the net was trained on"
        raise ValueError(f"{missing} ({error}): name it, such as --size 256 832.") from None


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.depth.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("record", type=Path, help="of the run, in the folder of the results")
    parser.add_argument("root", type=Path, help="folder of KITTI Raw, with the Eigen test drives")
    parser.add_argument("--improved", type=Path, help="folder of KITTI's improved depth maps")
    parser.add_argument("--weights", type=Path, help="of the net, if elsewhere than usual")
    parser.add_argument("--size", type=int, nargs=2, help="height and width that it was trained at")
    arguments = parser.parse_args()
    arguments.record = arguments.record.absolute()  # files beside it are found from there
    return arguments
