"""Train on an RGB-D folder that a description file explains, without code.

    python -m experiments.depth.rgbd_data FOLDER --size 72 96 [--run run.yaml]

A description is a YAML file, `FOLDER/description.yaml` or one given with `--description`: the scale
of the depth maps, a crop, which frames are for training and which for testing, and a folder of
images without depth. Without `--run` the folder is read and counted; `run.yaml` holds what
`DepthConfig` has, without `data`. `docs/rgbd.md` explains each key.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveFloat, ValidationError

from experiments.common.files import first_error
from experiments.common.records import Config
from experiments.depth.config import DepthConfig
from experiments.depth.data import DepthData
from experiments.depth.rgbd import Crop, RgbdFrames, split_by_time
from ubnlib.kitti import FrameKey

DOMAINS = Path(__file__).parent / "domains"
FILE = "description.yaml"  # in a folder that explains itself

Sides = tuple[list[FrameKey], list[FrameKey]]  # to train on, and to test on

# --- what a description says ----------------------------------------------------------------------


class ByLists(Config):
    """Two files name the frames, one a line: the number in a file's name, or the whole name."""

    by: Literal["lists"]
    train: Path
    test: Path

    def sides(self, frames: RgbdFrames) -> Sides:
        """Return the frames of both lists; what the folder lacks is left out by name."""
        return tuple(_listed(frames, path) for path in (self.train, self.test))


class ByTime(Config):
    """The first share of each sequence is for training, the last for testing; between is a gap."""

    by: Literal["time"]
    train: float = 0.7
    gap: float = 0.05

    def sides(self, frames: RgbdFrames) -> Sides:
        """Return the two blocks."""
        return split_by_time(frames.paired, self.train, self.gap)


class ByNumber(Config):
    """Frames up to a number are for training, those from another on for testing."""

    by: Literal["number"]
    last_train: int
    first_test: int

    def sides(self, frames: RgbdFrames) -> Sides:
        """Return the frames on both sides of the numbers."""
        train = [key for key in frames.paired if key.frame <= self.last_train]
        return train, [key for key in frames.paired if key.frame >= self.first_test]


class Folds(Config):
    """Cross-validation by place: a line of the file is the first and last frame of a place."""

    file: Path
    count: Annotated[int, Field(ge=2)]


class Unlabeled(Config):
    """A folder of images without depth, to train on.

    `twins` begins the names of second views of frames, as in `right_000003` of frame 3: where that
    frame, or another of its place, is tested, they are not trained on.
    """

    folder: Path
    twins: str | None = None


class Description(Config):
    """What must be known of a folder of images and depth maps; lists lie in it or beside this."""

    name: str
    source: str  # who made it, and the license
    depth_scale: PositiveFloat = 1000.0  # units a meter
    max_depth: PositiveFloat = float("inf")  # meters; what is farther counts as not measured
    crop: Crop | None = None
    split: Annotated[ByLists | ByTime | ByNumber, Field(discriminator="by")]
    folds: Folds | None = None
    unlabeled: Unlabeled | None = None


def read_description(path: Path | str) -> Description:
    """Read a description file, or one of the studies' by name: rooms, streets or kitchen.

    Lists that lie beside it are found there.
    """
    known = DOMAINS / f"{path}.yaml"
    path = known if known.is_file() else Path(path)
    try:
        description = Description.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"Description {path} is missing: write one (docs/rgbd.md), or name one."
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {first_error(error)}.") from error
    except ValidationError as error:
        raise ValueError(f"{path} is not a description: {_first(error)}") from error

    def found(name: Path) -> Path:
        beside = path.absolute().parent / name
        return beside if beside.is_file() else name

    split, folds = description.split, description.folds
    if split.by == "lists":
        split = split.model_copy(update={"train": found(split.train), "test": found(split.test)})
    if folds is not None:
        folds = folds.model_copy(update={"file": found(folds.file)})
    return description.model_copy(update={"split": split, "folds": folds})


def _first(error: ValidationError) -> str:
    """Return the first of what is wrong, in one line."""
    first = error.errors()[0]
    where = ", ".join(map(str, first["loc"])) or "the whole file"
    if first["type"] == "extra_forbidden":
        return f"{where} is an unknown key; docs/rgbd.md names those there are."
    return f"{where}: {first['msg']}."


# --- the data -------------------------------------------------------------------------------------


def rgbd_data(
    root: Path | str,
    size: Sequence[int],
    description: Description | Path | str | None = None,
    fold: int | None = None,
) -> DepthData:
    """Read a folder at (height, width) pixels and split it as its description says.

    The description is an object, a file, or the name of one of `domains`; None means the folder's
    own. `fold` counts from 0 and tests the places of one fold in place of the split.
    """
    root = Path(root)
    if not isinstance(description, Description):
        description = read_description(root / FILE if description is None else description)
    if fold is not None and description.folds is None:
        raise ValueError(f"Fold {fold} of {description.name}: its description has no folds.")
    unlabeled = description.unlabeled
    frames = RgbdFrames(
        root,
        tuple(size),
        description.depth_scale,
        crop=description.crop,
        max_depth=description.max_depth,
        unlabeled=unlabeled and unlabeled.folder,
    )
    if fold is None:
        train, test = description.split.sides(frames)
        first = getattr(description.split, "first_test", None)
        numbers = {key.frame for key in test}
        tested = [(first, float("inf"))] if first is not None else [(n, n) for n in numbers]
    else:
        train, test, tested = _fold(frames, description.folds, fold)
    for side, keys in (("train on", train), ("test on", test)):
        if not keys:
            raise ValueError(
                f"Folder {root} has no frame to {side} by the description of {description.name}: "
                f"expected some; it has {len(frames.paired)} frames, {frames.names[0]} to "
                f"{frames.names[len(frames.paired) - 1]}."
            )
    others = frames.unpaired
    if unlabeled is not None and unlabeled.twins is not None:
        others = [
            key
            for key in others
            if not _is_twin(frames.names[frames.index(key)], unlabeled.twins, tested)
        ]
    return DepthData(frames, train, test, others)


def summary(data: DepthData) -> str:
    """Say in one line how many frames are on which side."""
    frames = data.frames
    unused = len(frames.paired) - len(data.train_keys) - len(data.test_keys)
    views = len(frames.unpaired) - len(data.unlabeled_keys)
    return (
        f"to train on: {len(data.train_keys)} with depth, {len(data.unlabeled_keys)} without; to "
        f"test on: {len(data.test_keys)}; on no side: {unused}, and {views} second views of tests"
    )


def _is_twin(name: str, prefix: str, ranges: Sequence[tuple[float, float]]) -> bool:
    """Tell whether an unlabeled image is a second view of one of some ranges of frames."""
    stem = name.rpartition("/")[2]
    number = stem.removeprefix(prefix)
    if number == stem or not number.isdecimal():
        return False
    return any(first <= int(number) <= last for first, last in ranges)


def _lines(root: Path, path: Path) -> list[str]:
    """Return the entries of a list, without comments."""
    try:
        text = (root / path).read_text("utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"List {root / path} is missing: expected it there or beside the description."
        ) from None
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in dict.fromkeys(lines) if line]


def _listed(frames: RgbdFrames, path: Path) -> list[FrameKey]:
    """Return the frames that a list names, sorted."""
    by_name = dict(zip(frames.names, frames.paired, strict=False))
    one = len({key.drive for key in frames.paired}) == 1  # else a number names several frames
    by_number = {str(key.frame): key for key in frames.paired} if one else {}
    chosen, reason = set(), f"frames of {path.name} that the folder has not"
    for entry in _lines(frames.root, path):
        key = by_name.get(entry) or by_number.get(entry.lstrip("0") or "0")
        if key is None:
            frames.left_out.append((Path(entry), reason))
        else:
            chosen.add(key)
    return sorted(chosen)


def _fold(
    frames: RgbdFrames, folds: Folds, fold: int
) -> tuple[list[FrameKey], list[FrameKey], list[tuple[int, int]]]:
    """Return a fold's frames to train on and to test on, and the places that are tested.

    Folds are neighboring places, as two in a row may be one drive, and of about as many frames.
    """
    if not 0 <= fold < folds.count:
        raise ValueError(f"fold is {fold}, expected one from 0 to {folds.count - 1}.")
    path, places = frames.root / folds.file, []
    for line in _lines(frames.root, folds.file):
        try:
            first, last = map(int, line.split())
        except ValueError:
            raise ValueError(f"{path} has the line '{line}': expected two numbers.") from None
        if first > last or (places and first <= places[-1][1]):
            raise ValueError(f"{path} has the line '{line}': expected rising places, none twice.")
        places.append((first, last))
    members = [[k for k in frames.paired if a <= k.frame <= b] for a, b in places]
    known = {key for keys in members for key in keys}
    for key, name in zip(frames.paired, frames.names, strict=False):
        if key not in known:
            frames.left_out.append((Path(name), f"frames of no place in {path.name}"))
    train, test, tested, before = [], [], [], 0
    for place, keys in zip(places, members, strict=True):
        middle = before + len(keys) / 2
        before += len(keys)
        if int(folds.count * middle / max(1, len(known))) == fold:
            test += keys
            tested.append(place)
        else:
            train += keys
    return sorted(train), sorted(test), tested


# --- from the command line ------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Read a folder and say what is there; train on it where a run is given."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.depth.rgbd_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, nargs=2, required=True, metavar="PIXELS")
    parser.add_argument("--description", help="a file, or rooms, streets or kitchen")
    parser.add_argument("--fold", type=int, help="test these places, from 0")
    parser.add_argument("--run", type=Path, help="train; a YAML file: DepthConfig without data")
    parser.add_argument("--records", type=Path, default=Path("results/rgbd"))
    parser.add_argument("--weights", type=Path, help="folder for the trained net; none: not kept")
    given = parser.parse_args(arguments)
    try:
        data = rgbd_data(given.folder, given.size, given.description, given.fold)
        print(data.frames.report())
        print(summary(data))
        if given.run is not None:
            train_run(given.run, data, given.records, given.weights)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"rgbd_data: {error}", file=sys.stderr)
        return 1
    return 0


def train_run(path: Path, data: DepthData, records: Path, weights: Path | None) -> None:
    """Make a run's record if it is missing, and print its accuracy."""
    from experiments.depth.train import obtain_depth  # which reading a folder does not need

    try:
        options: Any = yaml.safe_load(path.read_text("utf-8"))
        config = DepthConfig.model_validate({**options, "data": data.fingerprint})
    except (yaml.YAMLError, TypeError, ValidationError) as error:
        what = _first(error) if isinstance(error, ValidationError) else first_error(error)
        raise ValueError(f"{path} is not a run: {what}") from error
    record = obtain_depth(config, data, records, weights=weights, progress=path.stem)
    print(f"{record.key}: delta1 {record.metrics['delta1'][0]:.3f}")


if __name__ == "__main__":
    sys.exit(main())
