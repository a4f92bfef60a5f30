"""What the benchmark of the depth training compares: methods, and where their batches come from."""

import itertools
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from kitti_forms import repeat_frames, synthetic_sample
from measuring import status_mb
from training_tables import HELD, Setting

from experiments.common.training import BNConfig
from experiments.depth.config import DepthConfig
from experiments.depth.cost import READ_AHEAD
from experiments.depth.data import DepthData, EveryLabels
from experiments.depth.engine import Engine, EngineConfig
from experiments.depth.forms import UBNForm
from experiments.depth.ranks import Ranks
from experiments.depth.steps import make_engine, make_loader, make_net
from ubnlib.kitti import LabeledUnlabeledLoader, PackedDepth, prepare
from ubnlib.kitti.loader import StepData

METHODS = {
    "BN": (BNConfig(), "side by side"),
    "UBN, side by side": (UBNForm(), "side by side"),
    "UBN, two passes": (UBNForm(), "two"),
}
WORKERS = {HELD: None, "no workers": 0, "2 workers": 2}
MANY = 10**9  # steps, more than are ever made
MEMORY_STEPS = 3


class Feed:
    """An engine's loader over any source; it hands out up to `steps`, and notes the wait."""

    def __init__(self, source: Iterator[StepData]):
        self.source = source
        self.step = self.steps = 0
        self.waited = 0.0  # seconds

    def __iter__(self) -> Iterator[StepData]:
        while self.step < self.steps:
            start = time.perf_counter()
            data = next(self.source)
            self.waited += time.perf_counter() - start
            self.step += 1
            yield data


class Case:
    """An engine with one source of its data, and what it waited for that, in seconds a turn."""

    def __init__(self, engine: Engine, source: Iterator[StepData], turn: int, read_ahead: int = 0):
        self.engine, self.feed = engine, Feed(source)
        self.steps, self.read_ahead = turn, read_ahead
        self.waited: list[float] = []

    def train(self, steps: int) -> None:
        """Make some steps."""
        self.feed.steps += steps
        self.feed.waited = 0.0
        self.engine.loader = self.feed
        self.engine.train()

    def settle(self) -> None:
        """Come to where a long run is: throw away what was read while others had their turns."""
        if self.read_ahead:
            for _ in range(self.read_ahead):
                next(self.feed.source)
            self.train(1)

    def turn(self) -> None:
        """Make the steps of a turn."""
        self.train(self.steps)
        self.waited.append(self.feed.waited)


def pack_frames(setting: Setting, folder: Path) -> DepthData:
    """Make a packed set of a few synthetic frames, many times over."""
    scale = min(1.0, 0.01 + setting.size[0] / 375)  # of KITTI's images: no smaller than wanted
    source = synthetic_sample(folder / "synthetic", scale) / "kitti_raw"
    raw = repeat_frames(source, folder / "raw", setting.size, setting.frames)
    return data_of(prepare(raw, folder / "packed", workers=1, progress=False))


def data_of(frames: PackedDepth) -> DepthData:
    """Train on all frames but the last."""
    return DepthData(frames, frames.keys[:-1], frames.keys[-1:])


def config_of(setting: Setting, method: str, data: DepthData) -> DepthConfig:
    """Return the run of a method, half of whose frames have a label."""
    norm, passes = METHODS[method]
    return DepthConfig(
        data=data.fingerprint,
        norm=norm,
        labels=EveryLabels(k=2),
        width=setting.width,
        levels=setting.levels,
        labeled_batch=setting.rows,
        unlabeled_batch=setting.rows,
        steps=MANY,
        engine=EngineConfig(
            precision=setting.precision, channels_last=setting.channels_last, passes=passes
        ),
    )


def make_cases(setting: Setting, data: DepthData, stack: ExitStack) -> dict[tuple, Case]:
    """Make an engine a method, and all its sources; the stack closes them."""
    ranks, cases = Ranks(0, 1, torch.device(setting.device)), {}
    for method in METHODS:
        config = config_of(setting, method, data)

        def loader(workers: int, config: DepthConfig = config) -> LabeledUnlabeledLoader:
            return make_loader(config, data, ranks, steps=MANY, workers=workers)

        engine = make_engine(config, make_net(config, ranks), loader(0), ranks)
        for name, workers in WORKERS.items():
            if workers is None:
                labeled, unlabeled = next(iter(loader(0)))
                labeled = labeled.to(ranks.device)
                unlabeled = None if unlabeled is None else unlabeled.to(ranks.device)
                source = itertools.repeat(StepData(labeled, unlabeled))
            else:
                source = stack.enter_context(closing(iter(loader(workers))))
            ahead = READ_AHEAD * (workers or 0)
            cases[name, method] = Case(engine, source, setting.turn, ahead)
    return {key: cases[key] for key in itertools.product(WORKERS, METHODS)}


def peak_memory(setting: Setting, method: str, folder: Path) -> float:
    """Return the MB that this process has at most when it does nothing but train."""
    torch.set_num_threads(setting.threads)
    data, ranks = data_of(PackedDepth(folder)), Ranks(0, 1, torch.device(setting.device))
    config = config_of(setting, method, data)
    loader = make_loader(config, data, ranks, steps=MEMORY_STEPS)
    make_engine(config, make_net(config, ranks), loader, ranks).train()
    if setting.device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return round(status_mb("VmHWM"), 1)


def peak_of_process(setting: Setting, method: str, folder: Path) -> float:
    """Return `peak_memory` of a fresh process.

    Raises:
        OSError: The process is killed.
    """
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            return pool.submit(peak_memory, setting, method, folder).result()
    except BrokenProcessPool as error:
        raise OSError(f"the process that measures the memory of {method!r} was killed") from error
