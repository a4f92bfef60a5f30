"""The depth experiment of section 4: DispNet trained with few depth maps and all images."""

import math
from pathlib import Path

from experiments.common.records import Record, Result, obtain, recorded
from experiments.depth.config import DepthConfig
from experiments.depth.data import DepthData
from experiments.depth.evaluate import (
    accuracy_of_parts,
    evaluate_frames,
    refreshed,
    statistics_of_parts,
)
from experiments.depth.ranks import Ranks, alone
from experiments.depth.steps import make_engine, make_loader, make_net
from experiments.depth.weights import save_weights
from ubnlib.dispnet import DispNet
from ubnlib.kitti.splits import compact


def train_depth(
    config: DepthConfig,
    data: DepthData,
    *,
    ranks: Ranks | None = None,
    checkpoint: Path | None = None,
    every_seconds: float = 60.0,
    progress: str | None = None,
    workers: int = 0,
) -> tuple[DispNet, dict[str, list[float]]]:
    """Train DispNet; runs of a seed share their first weights and their labeled batches.

    All runs make the same number of optimizer steps, so that fewer labels do not mean less
    training, and batch normalization never sees an unlabeled image.

    Args:
        config: The run.
        data: Its data.
        ranks: The processes that train it together (`ranks.joined`); None for this one.
        checkpoint: File of the run's state, from which a killed run goes on; see `Engine.train`.
        every_seconds: How much work may be lost.
        progress: Label of a progress bar; None shows none.
        workers: Processes that read batches ahead; the result does not depend on them.

    Returns:
        The net, and curves: the loss of each step and, at `config.evaluations` points, accuracies
        (delta < 1.25) of labeled, unlabeled and test frames and the layers' statistics.

    Raises:
        ValueError: The data is not that of the configuration.
        FloatingPointError: The loss or the gradient is not finite.
    """
    ranks = ranks or alone()
    loader = make_loader(config, data, ranks, workers=workers)
    net = make_net(config, ranks)
    steps = config.total_steps(len(data.train))
    points = {math.ceil(steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}

    def observe(step: int) -> dict[str, float]:
        if step not in points:
            return {}
        parts = accuracy_of_parts(net, config.labels, data)
        return {"step": step, **parts, **statistics_of_parts(net, config.labels, data)}

    engine = make_engine(config, net, loader, ranks)
    engine.train(
        observe=observe, checkpoint=checkpoint, every_seconds=every_seconds, progress=progress
    )
    return net, engine.curves


@recorded
def run_depth(
    config: DepthConfig,
    data: DepthData,
    *,
    weights: Path | None = None,
    ranks: Ranks | None = None,
    checkpoint: Path | None = None,
    every_seconds: float = 60.0,
    progress: str | None = None,
    workers: int = 0,
) -> Result:
    """Train one net and measure it on all test frames, at the frames' resolution, uncropped.

    The metrics are those of the moving averages, and `refreshed_delta1` the accuracy with
    statistics that were measured anew on training images, unlabeled ones too, after training:
    what a user of batch normalization can have without UBN.

    Where `weights` names a file, the trained net is kept there; see `weights`. The record
    names the labeled frames. See `train_depth` for the other arguments.
    """
    net, curves = train_depth(
        config,
        data,
        ranks=ranks,
        checkpoint=checkpoint,
        every_seconds=every_seconds,
        progress=progress,
        workers=workers,
    )
    if weights is not None:
        save_weights(net, weights)
    metrics = evaluate_frames(net, data.frames, data.test).means
    parts = accuracy_of_parts(net, config.labels, data)
    metrics |= {f"{name}_delta1": value for name, value in parts.items() if name != "test"}
    again = evaluate_frames(refreshed(net, data), data.frames, data.test).means
    metrics["refreshed_delta1"] = again["delta1"]
    labeled, unlabeled = data.labeled(config.labels)
    metrics |= {"labeled_frames": float(len(labeled)), "unlabeled_frames": float(len(unlabeled))}
    curves["loss"] = curves["loss"][:: max(1, len(curves["loss"]) // 100)]
    frames = {"labeled": compact(data.frames.keys[i] for i in labeled)}
    return Result.of_one_seed(metrics, curves, frames)


def checkpoint_path(config: DepthConfig, folder: Path | str) -> Path:
    """Return where a run's state is kept, which another version of it would not go on from."""
    return Path(folder) / f"{config.key}-v{config.version}.npz"


def obtain_depth(
    config: DepthConfig,
    data: DepthData,
    records: Path | str,
    *,
    ranks: Ranks | None = None,
    checkpoints: Path | None = None,
    weights: Path | None = None,
    every_seconds: float = 60.0,
    progress: str | None = None,
    workers: int = 0,
) -> Record:
    """Return a run's record, making it where it is missing, from its checkpoint if there is one.

    Args:
        config: The run.
        data: Its data.
        records: Folder of the records.
        ranks: The processes that train it together; None for this one.
        checkpoints: Folder of checkpoints, each of which goes when its record is there; None
            writes none.
        weights: Folder of trained weights, KEY.npz; None keeps none.
        every_seconds: How much work may be lost.
        progress: Label of a progress bar; None shows none.
        workers: Processes that read batches ahead.
    """
    checkpoint = None if checkpoints is None else checkpoint_path(config, checkpoints)

    def run(config: DepthConfig) -> Record:
        return run_depth(
            config,
            data,
            weights=None if weights is None else Path(weights) / f"{config.key}.npz",
            ranks=ranks,
            checkpoint=checkpoint,
            every_seconds=every_seconds,
            progress=progress,
            workers=workers,
        )

    record = obtain(config, run, records)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
        for partial in checkpoint.parent.glob(f"{checkpoint.name}.*.partial"):
            partial.unlink()  # of a run that was killed while it wrote
    return record
