"""Training in processes of their own, to be killed or to train together; and the data for it.

`torchrun --nproc-per-node 2 train_worker.py FOLDER OUT` makes the runs of `TOGETHER`.
"""

import io
import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pytest import MonkeyPatch
from torch import Tensor, nn

from experiments.common.training import initialized_by
from experiments.depth.config import DepthConfig, UBNForm
from experiments.depth.data import DepthData, EveryLabels
from experiments.depth.engine import Engine, EngineConfig, Ranks, joined, load_state, save_state
from experiments.depth.train import obtain_depth, train_depth
from small_kitti import HEIGHT, WIDTH, write_calibration, write_frame
from ubnlib.kitti import KittiRaw, LabeledUnlabeledLoader, PackedDepth, prepare

# Forks of a process that has imported everything and trained nothing: quick to start.
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["warm_worker"])
ALONE = Ranks(0, 1, torch.device("cpu"))

# --- depth runs ---------------------------------------------------------------------------------


def write_walls(root: Path) -> DepthData:
    """Images whose brightness tells how far the wall that fills them is: drive 2 is for testing."""
    rng = np.random.default_rng(0)
    for drive, count in ((1, 24), (2, 8)):
        for frame in range(count):
            meters = rng.uniform(4, 40)
            gray = 255 * (1 - meters / 50) + rng.normal(0, 3, (HEIGHT, WIDTH, 3))
            pixels = gray.clip(0, 255).astype(np.uint8)
            write_frame(root, drive, frame, cameras=(2,), meters=meters, pixels=pixels)
    write_calibration(root)
    prepare(KittiRaw(root, size=(16, 32)), root / "packed", progress=False)
    return open_walls(root)


def open_walls(root: Path) -> DepthData:
    """What `write_walls` wrote."""
    packed = PackedDepth(root / "packed")
    return DepthData(packed, packed.keys[:24], packed.keys[24:])


def depth_config(data: DepthData, **options) -> DepthConfig:
    """A small and short run."""
    settings = dict(
        data=data.fingerprint, labels=EveryLabels(k=4), width=0.1, levels=4, labeled_batch=4,
        unlabeled_batch=4, learning_rate=3e-3, steps=4, evaluations=2,
    )  # fmt: skip
    return DepthConfig(**settings | options)


KILLED_STEPS = 16
KILLED = dict(
    norm=UBNForm(source="running", running_stat="std"),
    engine=EngineConfig(accumulate=2),
    steps=KILLED_STEPS,
)


def obtain_killed(root: Path, out: Path) -> None:
    """Make the run `KILLED`, with a checkpoint after each step."""
    torch.set_num_threads(1)
    data = open_walls(root)
    folders = dict(checkpoints=out / "checkpoints", weights=out / "weights")
    obtain_depth(depth_config(data, **KILLED), data, out, every_seconds=0, **folders)


# --- runs of several processes ------------------------------------------------------------------

ODD = dict(labels=EveryLabels(k=2), labeled_batch=5, unlabeled_batch=7)  # so ranks have uneven rows
TOGETHER = {
    "UBN": dict(norm=UBNForm(), steps=9, **ODD),
    "BN": dict(**ODD),
    "all": dict(norm=UBNForm(stats_grad="all"), loss="log_l1", **ODD),
    "accumulated, one labeled row": dict(
        norm=UBNForm(), labeled_batch=2, unlabeled_batch=10, engine=EngineConfig(accumulate=2)
    ),
}


@contextmanager
def in_float64() -> Iterator[None]:
    """Train in float64, so that only gross differences can be differences."""

    def to_input(images: Tensor, channels_last: bool = False) -> Tensor:
        return images.double() / 255 - 0.5

    with MonkeyPatch.context() as patch:
        patch.setattr("experiments.depth.train.to_input", to_input)
        patch.setattr("experiments.depth.evaluate.to_input", to_input)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def main(root: Path, out: Path) -> None:
    """Make all runs with the other processes, each stopped once and gone on with."""
    torch.set_num_threads(1)
    with joined() as ranks, in_float64():
        data = open_walls(root)
        for name, options in TOGETHER.items():
            config, checkpoint = depth_config(data, **options), out / f"{name}.pt"
            part = config.model_copy(update={"steps": config.steps // 2})
            train_depth(part, data, ranks=ranks, checkpoint=checkpoint)
            net, curves = train_depth(config, data, ranks=ranks, checkpoint=checkpoint)
            save_state((net.state_dict(), curves), out / f"{name} {ranks.rank}.pt")


# --- the engine alone ---------------------------------------------------------------------------


class Rows(NamedTuple):
    """A batch of `RowsInMemory`."""

    images: Tensor
    target: Tensor


class RowsInMemory:
    """Random rows with what a loader asks of frames."""

    fingerprint = "rows"

    def __init__(self, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(40, 3, 6, 6, generator=generator, dtype=dtype)
        self.target = self.images.mean((1, 2, 3)).sin()

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices, *, depth: bool = True) -> Rows:
        return Rows(self.images[indices], self.target[indices])


def small_net(norm: bool = True, dropout: float = 0.0) -> nn.Module:
    """A convolutional net of fixed weights."""
    with initialized_by(7):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(64, 1),
        )


def squared_error(model: nn.Module, data) -> Tensor:
    """The loss of a micro-batch."""
    images, target = data.labeled
    return (model(images)[:, 0] - target).square().mean()


def make_engine(
    net: nn.Module | None = None, *, rows=None, loss=squared_error, seed=0, **options
) -> Engine:
    """An engine over random rows; options are the loader's (steps, ...) and EngineConfig's."""
    of_loader = dict(labeled_batch=8, unlabeled_batch=1, steps=12, seed=3)
    of_loader |= {name: options.pop(name) for name in of_loader.keys() & options}
    rows = RowsInMemory() if rows is None else rows
    loader = LabeledUnlabeledLoader(rows, range(len(rows)), **of_loader)
    config = EngineConfig(**options)
    net = config.prepare(small_net() if net is None else net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
    return Engine(net, optimizer, loss, loader, config, ALONE, seed, lambda made: 1e-2)


# --- processes, also to be killed ---------------------------------------------------------------


def start(target: Callable, *arguments) -> BaseProcess:
    """Start a process that has done nothing before."""
    with MonkeyPatch.context() as patch:  # the server knows no other way to the tests' modules
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()
    process = CLEAN.Process(target=target, args=arguments)
    process.start()
    return process


def until_done(target: Callable, *arguments, folder: Path, kills: int, seed: int) -> list[int]:
    """Start a process until it is done, killing it by SIGKILL again and again.

    First it dies when a checkpoint is half written, then at random moments, drawn from the seed.
    `folder` is where its one checkpoint, *.pt, is written. Returns the steps from which the starts
    went on.
    """
    moments, starts = random.Random(seed), []
    for kill in range(kills + 1):
        before = _state(folder)
        starts.append(0 if before is None else load_state(before[0])["step"])
        if kill == 0:
            process = start(die_in_writing, 5, target, *arguments)
        else:
            process = start(target, *arguments)
        if 0 < kill < kills:
            while process.is_alive() and _state(folder) == before:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.1))
            process.kill()
        process.join(timeout=600)
        expected = (0,) if kill == kills else (-signal.SIGKILL,)
        assert process.exitcode in expected, (kill, process.exitcode)
    return starts


def die_in_writing(number: int, target: Callable, *arguments) -> None:
    """Run a target until half of the number-th file is written, and die by SIGKILL."""
    write, numbers = torch.save, itertools.count(1)

    def write_half(state, file):
        if next(numbers) < number:
            return write(state, file)
        whole = io.BytesIO()
        write(state, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = write_half
    target(*arguments)


def _state(folder: Path) -> tuple[Path, int] | None:
    """The checkpoint, and what tells it from those before and after."""
    for path in folder.glob("*.pt"):
        try:
            return path, path.stat().st_mtime_ns
        except FileNotFoundError:  # the run is done
            return None
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
