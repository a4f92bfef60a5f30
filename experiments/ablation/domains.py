"""Where a run's data comes from: the problems of each domain."""

from collections.abc import Iterator
from dataclasses import dataclass

from experiments.ablation.config import AblationConfig
from experiments.ablation.depth import DepthProblem
from experiments.ablation.digits import DigitsProblem
from experiments.ablation.spiral import SpiralProblem
from experiments.ablation.training import Problem
from experiments.depth.data import DepthData, Frames


@dataclass(frozen=True, eq=False)
class Scenes:
    """Frames of a depth domain.

    Args:
        data: The frames, for training and for testing.
        other: Frames of another distribution, of the same size.
        depth_range: DispNet's `scale` and `min_disparity`, where they are not the paper's.
    """

    data: DepthData
    other: Frames
    depth_range: dict[str, float]


def problems_of(config: AblationConfig, scenes: Scenes | None) -> Iterator[Problem]:
    """Yield what a run trains on: one problem for nets side by side, else one a seed.

    Raises:
        ValueError: A depth run has no frames, or others than its configuration names.
    """
    labels = config.setting.labels
    if config.domain == "spiral":
        yield SpiralProblem(labels, config.seeds)
        return
    if config.domain == "digits":
        judged = "validation" if config.stage == "tuning" else "test"
        yield from (DigitsProblem(labels, seed, judged) for seed in config.seeds)
        return
    given = None if scenes is None else scenes.data.fingerprint
    if given != config.data:
        raise ValueError(
            f"The run on {config.domain!r} is for frames {config.data!r} and those given are "
            f"{given!r}: give its frames, or make its configuration with data=data.fingerprint."
        )
    for seed in config.seeds:
        yield DepthProblem(scenes.data, labels, seed, scenes.other, scenes.depth_range)
