"""The depth experiment of section 4: DispNet trained with few depth maps and all images.

    python -m experiments.depth.train RUN.json PACKED --split paper_standin --records RECORDS
    torchrun --nproc-per-node 8 -m experiments.depth.train RUN.json PACKED ...

RUN.json is a run's configuration, as `make prepare` writes it for every run that it needs. A run
that was killed goes on from its checkpoint.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.common.records import Record, Result, current_record, obtain, recorded
from experiments.common.training import initialized_by
from experiments.depth.config import DepthConfig, UBNForm
from experiments.depth.data import DepthData, split_data
from experiments.depth.engine import Engine, Ranks, alone, joined, save_state
from experiments.depth.evaluate import (
    accuracy_of_parts,
    evaluate_frames,
    refreshed,
    statistics_of_parts,
    to_input,
)
from experiments.depth.packing import NAMED_SPLITS
from ubnlib.dispnet import PREDICTING, DispNet
from ubnlib.forward import two_passes, ubn_forward
from ubnlib.kitti import LabeledUnlabeledLoader, PackedDepth
from ubnlib.kitti.loader import StepData
from ubnlib.kitti.splits import compact
from ubnlib.losses import multiscale_depth_loss

# --- what a run is made of ------------------------------------------------------------------------


def make_loader(
    config: DepthConfig, data: DepthData, ranks: Ranks, workers: int = 0
) -> LabeledUnlabeledLoader:
    """Return a rank's batches of a run; batch normalization gets no unlabeled images."""
    if config.data != data.fingerprint:
        raise ValueError(
            f"The configuration is for data {config.data} and the frames given are "
            f"{data.fingerprint}: make the configuration with data=data.fingerprint."
        )
    labeled, unlabeled = data.labeled(config.labels)
    if len(labeled) < config.labeled_batch:
        raise ValueError(
            f"1/{config.labels.k} leaves {len(labeled)} labeled frames, fewer than a labeled batch "
            f"of {config.labeled_batch}: keep more labels or take a smaller batch."
        )
    if config.unlabeled_from == "labeled":
        unlabeled = labeled
    parts = config.engine.accumulate
    return LabeledUnlabeledLoader(
        data.frames,
        labeled,
        unlabeled if config.norm.kind == "ubn" else (),
        labeled_batch=config.labeled_batch // parts,
        unlabeled_batch=config.unlabeled_batch // parts,
        steps=config.total_steps(len(data.train)) * parts,
        seed=config.seed,
        workers=workers,
        pin_memory=ranks.device.type == "cuda",
        part=(ranks.rank, ranks.world),
    )


def make_net(config: DepthConfig, ranks: Ranks) -> DispNet:
    """Return the net of a run before training, on its device."""
    with initialized_by(config.seed):
        net = config.net()
    with torch.no_grad():
        for level in range(1, PREDICTING + 1):
            getattr(net, f"disp{level}").weight.mul_(config.start)
    norm = config.norm
    if ranks.world > 1 and norm.kind == "ubn" and norm.repair != "nothing":
        raise ValueError(
            f"repair is {norm.repair!r} with {ranks.world} processes: a repair knows the rows of "
            "its own process only; start one."
        )
    if ranks.world > 1 and norm.kind == "bn":
        # Without unlabeled rows UBN is batch normalization, and over the rows of all ranks.
        norm = UBNForm(momentum=norm.momentum)
    return config.engine.prepare(norm.apply(net).to(ranks.device))


def make_optimizer(net: nn.Module, config: DepthConfig) -> torch.optim.Optimizer:
    """Return the run's optimizer: the paper's Adam; weights may decay, by AdamW's rule."""
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay, fused=True)


def loss_of_step(
    model: nn.Module, batch: StepData, config: DepthConfig, ranks: Ranks, micro_step: int, of: int
) -> Tensor:
    """Return the loss of one batch, over the rows of all ranks; see `Engine`."""
    sides = np.random.default_rng((config.seed, 2, micro_step, ranks.rank))
    labeled = batch.labeled.to(ranks.device, non_blocking=True)
    images, depth = labeled.images, labeled.depth()
    if config.mirror:
        images, depth = mirrored(sides, images, depth)
    rows = to_input(images, config.engine.channels_last)
    others = rows[:0] if ranks.world > 1 else None
    if batch.unlabeled is not None and micro_step >= config.warmup * of:
        others = batch.unlabeled.to(ranks.device, non_blocking=True).images
        if config.mirror:
            (others,) = mirrored(sides, others)
        others = to_input(others, config.engine.channels_last)
    if others is None:
        predictions = ubn_forward(model, rows, None)
    elif getattr(config.norm, "averages_only", False):
        predictions = averages_then_own(model, rows, others)
    elif config.engine.passes == "two":
        predictions = two_passes(model, rows, others)
    else:
        predictions = ubn_forward(model, rows, others, interleave=True)
    return multiscale_depth_loss(
        predictions,
        depth,
        mode=config.downscale,
        norm=config.loss,
        total=ranks.total if ranks.world > 1 else None,
        shares=ranks.world,
    )


def mirrored(sides: np.random.Generator, *tensors: Tensor) -> list[Tensor]:
    """Return tensors [N, ..., W] with a random half of their rows mirrored, the same in all."""
    flipped = torch.from_numpy(sides.random(len(tensors[0])) < 0.5).to(tensors[0].device)
    masks = (flipped.view(-1, *[1] * (tensor.dim() - 1)) for tensor in tensors)
    return [t.flip(-1).where(mask, t) for t, mask in zip(tensors, masks, strict=True)]


def averages_then_own(model: nn.Module, labeled: Tensor, unlabeled: Tensor) -> Tensor:
    """Move the averages by the combined batch, then predict x with its own statistics."""
    with torch.no_grad():
        model(torch.cat([labeled, unlabeled]))
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        return model(labeled)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


# --- a run ----------------------------------------------------------------------------------------


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
    training, and batch normalization never sees an unlabeled image. `ranks` are the processes that
    train it together, `workers` those that read ahead; the rest is for `Engine.train`.

    Returns the net, and curves: the loss of each step and, at `config.evaluations` points,
    accuracies (delta < 1.25) of labeled, unlabeled and test frames and the layers' statistics.
    """
    ranks = ranks or alone()
    loader = make_loader(config, data, ranks, workers)
    net = make_net(config, ranks)
    steps = config.total_steps(len(data.train))
    points = {math.ceil(steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}

    def observe(step: int) -> dict[str, float]:
        if step not in points:
            return {}
        parts = accuracy_of_parts(net, config.labels, data)
        return {"step": step, **parts, **statistics_of_parts(net, config.labels, data)}

    def loss(model: nn.Module, batch: StepData) -> Tensor:
        return loss_of_step(model, batch, config, ranks, loader.step - 1, loader.steps)

    model, optimizer = ranks.wrap(net), make_optimizer(net, config)
    engine = Engine(model, optimizer, loss, loader, config.engine, ranks, config.seed, config.rate)
    engine.train(
        observe=observe, checkpoint=checkpoint, every_seconds=every_seconds, progress=progress
    )
    return net, engine.curves


@recorded
def run_depth(
    config: DepthConfig, data: DepthData, *, weights: Path | None = None, **training: Any
) -> Result:
    """Train one net and measure it on all test frames, at the frames' resolution, uncropped.

    The metrics are those of the moving averages, and `refreshed_delta1` the accuracy with
    statistics that were measured anew on training images, unlabeled ones too, after training:
    what a user of batch normalization can have without UBN. The record names the labeled frames.
    `weights` is a file for the trained net; the other options are those of `train_depth`.
    """
    net, curves = train_depth(config, data, **training)
    if weights is not None:
        save_state(net.state_dict(), weights)
    metrics = evaluate_frames(net, data.frames, data.test).means
    parts = accuracy_of_parts(net, config.labels, data)
    metrics |= {f"{name}_delta1": value for name, value in parts.items() if name != "test"}
    if len(curves.get("test", ())) == 4:  # fewer steps have fewer
        metrics["last_quarter"] = curves["test"][3] - curves["test"][2]
    again = evaluate_frames(refreshed(net, data), data.frames, data.test).means
    metrics["refreshed_delta1"] = again["delta1"]
    labeled, unlabeled = data.labeled(config.labels)
    metrics |= {"labeled_frames": float(len(labeled)), "unlabeled_frames": float(len(unlabeled))}
    curves["loss"] = curves["loss"][:: max(1, len(curves["loss"]) // 100)]
    frames = {"labeled": compact(data.frames.keys[i] for i in labeled)}
    return Result.of_one_seed(metrics, curves, frames)


def checkpoint_path(config: DepthConfig, folder: Path | str) -> Path:
    """Return where a run's state is kept, which another version of it would not go on from."""
    return Path(folder) / f"{config.key}-v{config.version}.pt"


def weights_path(config: DepthConfig, folder: Path | str) -> Path:
    """Return where a run's trained net is kept."""
    return Path(folder) / f"{config.key}.pt"


def obtain_depth(
    config: DepthConfig,
    data: DepthData,
    records: Path | str,
    *,
    checkpoints: Path | None = None,
    weights: Path | None = None,
    **training: Any,
) -> Record:
    """Return a run's record, making it where it is missing, from its checkpoint if there is one.

    `checkpoints` and `weights` are folders, None for none; a checkpoint goes when the record is
    there. The other options are those of `train_depth`.
    """
    checkpoint = None if checkpoints is None else checkpoint_path(config, checkpoints)
    kept = None if weights is None else weights_path(config, weights)

    def run(config: DepthConfig) -> Record:
        return run_depth(config, data, weights=kept, checkpoint=checkpoint, **training)

    record = obtain(config, run, records)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
        for partial in checkpoint.parent.glob(f"{checkpoint.name}.*.partial"):
            partial.unlink()  # of a run that was killed while it wrote
    return record


# --- from the command line ------------------------------------------------------------------------


def main() -> int:
    """Train, and print the record's key and accuracy."""
    arguments = parse()
    try:
        config = DepthConfig.model_validate_json(arguments.run.read_text())
        data = split_data(PackedDepth(arguments.packed), arguments.split, arguments.test_every)
        with joined() as ranks:
            make_record(config, data, ranks, arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train: interrupted; the same command goes on where it was.", file=sys.stderr)
        return 130
    return 0


def make_record(
    config: DepthConfig, data: DepthData, ranks: Ranks, arguments: argparse.Namespace
) -> None:
    """Make the record if it is missing; the first process writes it, and the others help."""
    records, checkpoints = arguments.records, arguments.checkpoints
    how = dict(ranks=ranks, every_seconds=arguments.every_seconds, workers=arguments.workers)
    if ranks.first:
        how |= dict(progress=f"1/{config.labels.k}, seed {config.seed}", weights=arguments.weights)
        record = obtain_depth(config, data, records, checkpoints=checkpoints, **how)
        print(f"{record.key}: delta1 {record.metrics['delta1'][0]:.3f}")
    # The first process writes after all have trained, so that all see the same here.
    elif current_record(config, records) is None:
        run_depth(config, data, checkpoint=checkpoint_path(config, checkpoints), **how)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.depth.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="its configuration, a JSON file")
    parser.add_argument("packed", type=Path, help="folder that prepare_kitti.py made")
    parser.add_argument("--split", choices=list(NAMED_SPLITS), required=True, help="RUN.json's")
    parser.add_argument("--records", type=Path, default=Path("results/depth/records"))
    parser.add_argument("--checkpoints", type=Path, default=Path("results/depth/checkpoints"))
    parser.add_argument("--weights", type=Path, help="folder for the trained net; none: not kept")
    parser.add_argument("--every-seconds", type=float, default=600.0, help="between checkpoints")
    parser.add_argument("--test-every", type=int, default=1, help="test on one frame in so many")
    parser.add_argument("--workers", type=int, default=2, help="processes that read ahead")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
