"""Make the shipped splits of KITTI Raw from the published lists, or check them against these.

The folder of published lists holds, under these names:
  eigen_full_train.txt     monodepth2, splits/eigen_full/train_files.txt
  eigen_full_val.txt       monodepth2, splits/eigen_full/val_files.txt
  eigen_test_697.txt       monodepth2, splits/eigen/test_files.txt
  eigen_benchmark_652.txt  monodepth2, splits/eigen_benchmark/test_files.txt
  test_scenes_eigen.txt    SfMLearner, data/kitti/test_scenes_eigen.txt
  static_frames.txt        SfMLearner, data/kitti/static_frames.txt
"""

import argparse
import re
import sys
import textwrap
from importlib import resources
from pathlib import Path

from kitti_drives import load_catalog
from ubnlib.kitti.raw import FrameKey
from ubnlib.kitti.splits import SPLITS, compact

CAMERAS = {"l": 2, "r": 3}
VALIDATION_DRIVES = {f"2011_09_26_drive_{drive}" for drive in ("0028", "0032", "0070")}

EIGEN = (
    "D. Eigen, C. Puhrsch, R. Fergus, Depth map prediction from a single image using a multi-scale "
    "deep network, NeurIPS 2014; the list as circulated with monodepth2 (C. Godard et al., ICCV "
    "2019), splits/{}, l = camera 2, r = camera 3."
)
STANDIN = (
    "the Eigen train drives (lists of monodepth2, C. Godard et al., ICCV 2019), without the static "
    "frames listed by SfMLearner (T. Zhou et al., CVPR 2017): {}. The paper's own list of {} "
    "images was not published and cannot be replayed: no fixed rule that was tried gives its count."
)
SOURCES = {
    "eigen_train": EIGEN.format("eigen_full/train_files.txt"),
    "eigen_val": EIGEN.format("eigen_full/val_files.txt"),
    "eigen_test_697": EIGEN.format("eigen/test_files.txt"),
    "eigen_test_652": EIGEN.format("eigen_benchmark/test_files.txt"),
    "paper_standin_train": STANDIN.format("all but those of paper_standin_val", "42,304"),
    "paper_standin_val": STANDIN.format("0028, 0032 and 0070 of 2011_09_26", "2,480"),
}


def read_list(path: Path, pattern: str) -> list[re.Match]:
    """Read a published list, one match for each line."""
    matches = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        if not (match := re.fullmatch(pattern, line.strip())):
            raise ValueError(f"Line {number} of {path} is {line!r}: expected the form {pattern}.")
        matches.append(match)
    return matches


def read_frames(path: Path) -> set[FrameKey]:
    """Read a list of lines such as `2011_09_26/2011_09_26_drive_0002_sync 69 l`."""
    matches = read_list(path, r"(\d{4}_\d\d_\d\d)/\1_drive_(\d{4})_sync (\d{1,10}) ([lr])")
    keys = {FrameKey(m[1], m[2], CAMERAS[m[4]], int(m[3])) for m in matches}
    if len(keys) < len(matches):
        again = len(matches) - len(keys)
        raise ValueError(f"{path} names frames again on {again} lines: expected each frame once.")
    return keys


def make_splits(folder: Path) -> dict[str, set[FrameKey]]:
    """Return the frames of every split, by name; refuse lists that do not agree."""
    line = r"(\d{4}_\d\d_\d\d) (\1_drive_\d{4})_sync (\d{1,10})"
    static = {(m[2], int(m[3])) for m in read_list(folder / "static_frames.txt", line)}
    scenes = {m[0] for m in read_list(folder / "test_scenes_eigen.txt", r"\w{10}_drive_\d{4}")}
    benchmark = read_frames(folder / "eigen_benchmark_652.txt")
    test = read_frames(folder / "eigen_test_697.txt")
    val = read_frames(folder / "eigen_full_val.txt")
    train = read_frames(folder / "eigen_full_train.txt")

    drives = {key.drive_name for key in train | val}
    frames = {drive.name: drive.frames for drive in load_catalog()}
    whole = {
        FrameKey(drive[:10], drive[-4:], camera, frame)
        for drive in drives
        for camera in CAMERAS.values()
        for frame in range(frames.get(drive, 0))
    }
    agreements = {
        "Eigen train and val have no frame in common": not train & val,
        "Eigen train and val together are their drives, whole": train | val == whole,
        "the 697 test images cover the 28 test drives": {k.drive_name for k in test} == scenes,
        "train and test have no drive in common": not drives & scenes,
        "the 652 test images are among the 697": benchmark <= test,
    }
    for sentence, holds in agreements.items():
        if not holds:
            raise ValueError(f"The lists in {folder} do not agree: expected that {sentence}.")
    moving = {key for key in whole if (key.drive_name, key.frame) not in static}
    standin_val = {key for key in moving if key.drive_name in VALIDATION_DRIVES}
    return {
        "eigen_train": train,
        "eigen_val": val,
        "eigen_test_697": test,
        "eigen_test_652": benchmark,
        "paper_standin_train": moving - standin_val,
        "paper_standin_val": standin_val,
    }


def write_split(name: str, keys: set[FrameKey]) -> str:
    """Return the text of a split's file; refuse another number of images than it is known for."""
    description, count = SPLITS[name]
    if len(keys) != count:
        raise ValueError(f"Split {name} has {len(keys)} images: expected {count}.")
    drives = len({key.drive_name for key in keys})
    header = [
        f"{description}.",
        f"Count: {count:,} images, {drives} drives. Order is not kept.",
        f"Source: {SOURCES[name]}",
        "Each line: a drive, its cameras (2 left, 3 right), and ranges of frames.",
    ]
    comments = [f"# {line}" for part in header for line in textwrap.wrap(part, 98)]
    return "".join(f"{line}\n" for line in (*comments, *compact(keys)))


def main() -> int:
    """Parse the arguments, make the files or compare them, print what was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("published", type=Path, help="folder of the published lists")
    shipped = resources.files("ubnlib.kitti").joinpath("split_lists")
    parser.add_argument("--output", type=Path, default=shipped, help="folder of the split files")
    parser.add_argument("--check", action="store_true", help="compare the files, write nothing")
    arguments = parser.parse_args()
    try:
        texts = {n: write_split(n, keys) for n, keys in make_splits(arguments.published).items()}
        for name, text in texts.items():
            path = arguments.output / f"{name}.txt"
            if not arguments.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            elif path.read_text(encoding="utf-8") != text:
                raise ValueError(f"{path} differs from the published lists: make it again.")
            print(f"{name}: {SPLITS[name].count} images")
    except (ValueError, OSError) as error:
        print(f"make_splits: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
