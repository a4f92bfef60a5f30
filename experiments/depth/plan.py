"""The runs behind Figure 6, and the packed frames that they train on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.depth import study as depth_study
from experiments.depth.config import DepthConfig
from experiments.depth.data import DepthData, EveryLabels, usual_split
from experiments.depth.forms import NormConfig, UBNForm
from ubnlib.kitti import KittiRaw, prepare

LITERAL = {depth_study.LITERAL: UBNForm(stats_grad="none")}
METHODS: dict[str, NormConfig] = {**depth_study.METHODS, **LITERAL}


class DepthRun(NamedTuple):
    """A run of Figure 6: which method, with one depth map in `every`."""

    method: str
    every: int
    config: DepthConfig

    @property
    def shown(self) -> bool:
        """Whether pictures are made of this run's net: of each method's first seed."""
        return self.config.seed == 0


def depth_runs(
    data: str,
    *,
    label_every: Sequence[int],
    batch: Sequence[int],
    steps: int,
    learning_rate: float,
    seeds: int,
    net: Mapping[str, Any],
    engine: Mapping[str, Any],
) -> list[DepthRun]:
    """Return the runs of every method and label share; the literal text's only at the first share.

    Args:
        data: Fingerprint of the frames.
        label_every: Keep one depth map in so many.
        batch: Labeled and unlabeled images a step.
        steps: Optimizer steps.
        learning_rate: Of Adam.
        seeds: How many, from 0.
        net: Width and levels of DispNet.
        engine: How steps are computed; see `experiments.depth.engine.EngineConfig`.
    """
    labeled, unlabeled = batch
    return [
        DepthRun(
            method,
            every,
            DepthConfig(
                data=data,
                norm=norm,
                labels=EveryLabels(k=every),
                seed=seed,
                labeled_batch=labeled,
                unlabeled_batch=unlabeled,
                steps=steps,
                learning_rate=learning_rate,
                engine=engine,
                **net,
            ),
        )
        for method, norm in METHODS.items()
        for every in label_every
        for seed in range(seeds)
        if method not in LITERAL or every == label_every[0]
    ]


def packed_folder(data_root: Path | str, size: Sequence[int], kind: str) -> Path:
    """Return where frames of a size are packed; `kind` says of what, such as "kitti"."""
    return Path(data_root) / f"packed-{kind}-{size[0]}x{size[1]}"


def pack_split(
    root: Path | str, folder: Path | str, *, cameras: Sequence[int], size: Sequence[int],
    test_every: int = 1,
) -> DepthData:  # fmt: skip
    """Pack all frames of the usual split that are not packed yet; return them with the split.

    Args:
        root: A folder in KITTI Raw's layout.
        folder: Where packed frames go.
        cameras: Which of the two color cameras, 2 and 3.
        size: Height and width.
        test_every: Test on one frame in so many.
    """
    keys = KittiRaw(root, cameras=tuple(cameras)).keys
    listed = [key for side in usual_split(keys) for key in side]
    packed = prepare(KittiRaw(root, size=tuple(size), keys=listed), Path(folder))
    return DepthData(packed, *usual_split(keys, test_every))
