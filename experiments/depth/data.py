"""The data of a depth run: frames for training, labeled or not, and frames for testing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field
from torch import Tensor

from experiments.common.records import Config
from experiments.depth.packing import split_frames
from ubnlib.kitti import FrameKey, KittiRaw, keep_every, prepare
from ubnlib.kitti.splits import digest


class Frames(Protocol):
    """What a data set must offer; see `ubnlib.kitti.PackedDepth` and `rgbd.RgbdFrames`."""

    keys: Sequence[FrameKey]
    fingerprint: str

    def __len__(self) -> int: ...

    def index(self, key: FrameKey) -> int:
        """Return the position of a frame."""

    def depth(self, index: int) -> Tensor:
        """Return a depth map [H, W] in meters, 0 = no measurement."""

    def batch(self, indices: Sequence[int], *, depth: bool = True) -> Any:
        """Return frames with `images`, `depth()` and `to(device)`."""


class EveryLabels(Config):
    """Keep the depth maps of a sensor whose frame rate is k times lower, as the paper does."""

    kind: Literal["every"] = "every"
    k: int
    phase: int = 0

    def choose(self, keys: Sequence[FrameKey]) -> np.ndarray:
        """Return which frames keep their depth map: [len(keys)] bool."""
        return keep_every(keys, self.k, self.phase)


class DrawnLabels(Config):
    """Keep one depth map in k, drawn from all frames alike; nested for all k of a seed."""

    kind: Literal["drawn"] = "drawn"
    k: int = Field(ge=1)
    seed: int = 0

    def choose(self, keys: Sequence[FrameKey]) -> np.ndarray:
        """Return which frames keep their depth map: [len(keys)] bool."""
        order = np.random.default_rng((self.seed, 3)).permutation(len(keys))
        kept = np.zeros(len(keys), dtype=bool)
        kept[order[: -(-len(keys) // self.k)]] = True
        return kept


class PlacesLabels(Config):
    """Keep as many depth maps as one in k, but from few places only: labels that are biased.

    A place is one of `of` equal blocks of the frames in their order, such as a drive, or some rooms
    whose frames are neighbors; a seed draws `places` of them, and labels are evenly spread there.
    """

    kind: Literal["places"] = "places"
    k: int = Field(ge=1)
    places: int = Field(ge=1)
    of: int = Field(ge=1)
    seed: int = 0

    def choose(self, keys: Sequence[FrameKey]) -> np.ndarray:
        """Return which frames keep their depth map: [len(keys)] bool."""
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
        wanted = -(-len(keys) // self.k)
        drawn = np.random.default_rng((self.seed, 4)).permutation(self.of)[: self.places]
        blocks = np.array_split(order, self.of)
        there = np.concatenate([blocks[place] for place in sorted(drawn)])
        if self.places > self.of or len(there) < wanted:
            raise ValueError(
                f"{self.places} places of {self.of} have {len(there)} frames: expected at least "
                f"the {wanted} labels of one in {self.k}; take more places or fewer labels."
            )
        kept = np.zeros(len(keys), dtype=bool)
        kept[there[np.arange(wanted) * len(there) // wanted]] = True
        return kept


LabelsConfig = Annotated[EveryLabels | DrawnLabels | PlacesLabels, Field(discriminator="kind")]


@dataclass(frozen=True, eq=False)
class DepthData:
    """Packed frames, or others of their interface, and which are for training and for testing."""

    frames: Frames
    train_keys: Sequence[FrameKey]  # with depth, whether or not a run keeps it
    test_keys: Sequence[FrameKey]
    unlabeled_keys: Sequence[FrameKey] = ()  # further images to train on, without depth

    def __post_init__(self):
        both = {*self.train_keys, *self.unlabeled_keys} & set(self.test_keys)
        if both or not self.train_keys or not self.test_keys:
            raise ValueError(
                f"There are {len(self.train_keys)} frames to train on, {len(self.test_keys)} to "
                f"test on, and {len(both)} on both sides: expected some on each and none on both."
            )

    @cached_property
    def train(self) -> np.ndarray:
        """Positions of the training frames, those without depth last, in the set, [n] int64."""
        keys = (*self.train_keys, *self.unlabeled_keys)
        return np.array([self.frames.index(key) for key in keys])

    @property
    def without_depth(self) -> np.ndarray:
        """Positions of the training frames that have no depth map at all, [n] int64."""
        return self.train[len(self.train_keys) :]

    @cached_property
    def test(self) -> np.ndarray:
        """Positions of the test frames in the packed set, [n] int64."""
        return np.array([self.frames.index(key) for key in self.test_keys])

    @cached_property
    def fingerprint(self) -> str:
        """What data this is, for `DepthConfig.data`."""
        sides = [self.train_keys, self.test_keys]
        if self.unlabeled_keys:  # data without any keeps the name it has in old records
            sides.append(self.unlabeled_keys)
        return "-".join([self.frames.fingerprint, *map(digest, sides)])

    def labeled(self, labels: LabelsConfig) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of training frames that keep their depth map, and of the others."""
        kept = np.zeros(len(self.train), dtype=bool)
        kept[: len(self.train_keys)] = labels.choose(self.train_keys)
        return self.train[kept], self.train[~kept]


def split_data(frames: Frames, split: str, test_every: int = 1) -> DepthData:
    """Divide packed frames by the name of a split, as `packing.split_frames` does.

    What was packed decides, for preparing and running alike: a frame that could not be read is on
    neither side. Of the test frames, one in `test_every` is taken, by its number.
    """
    sides = split_frames(frames.keys, split)
    test = [key for key in sides.test.present if key.frame % test_every == 0]
    return DepthData(frames, sides.train.present, test)


def packed_folder(data_root: Path | str, size: Sequence[int], kind: str) -> Path:
    """Return where frames of a size are packed; `kind` says of what, such as "kitti-eigen"."""
    return Path(data_root) / f"packed-{kind}-{size[0]}x{size[1]}"


# The studies' range of depth indoors: the paper's begins behind most of a room.
INDOOR = dict(scale=2.0, min_disparity=0.1)


def rendered_drives(folder: Path, seed: int, size: tuple[int, int], **form: Any) -> DepthData:
    """Return a study's synthetic drives of a form, rendered and packed if need be."""
    from synthetic_kitti import make_synthetic_kitti  # which runs on other frames do not need

    root = make_synthetic_kitti(folder / f"drives-{seed}", seed=seed, **form)
    raw = KittiRaw(root, cameras=(2,), size=size)
    packed = prepare(raw, packed_folder(folder, size, f"{seed}"))
    return split_data(packed, "by_drive", test_every=4)
