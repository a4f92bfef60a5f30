"""Measure the depth training: steps of BN and UBN, with and without reading their data.

Times go into training_cpu.json or training_cuda.json, and tables of them into the folder's
README.md.
"""

import argparse
import itertools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from kitti_forms import repeat_frames, synthetic_sample
from measuring import WARM_UP, alternate, status_mb
from tqdm import tqdm
from training_tables import HELD, Comparison, Measurement, Report, Setting, write_report

from ubnlib.cost import READ_AHEAD, make_engine, make_loader
from ubnlib.depth_data import DepthData, EveryLabels
from ubnlib.depth_experiment import DepthConfig
from ubnlib.engine import Engine, EngineConfig
from ubnlib.flops import flops_of_step
from ubnlib.forms import UBNForm
from ubnlib.kitti import LabeledUnlabeledLoader, PackedDepth, prepare
from ubnlib.kitti.packed.loader import StepData
from ubnlib.provenance import provenance
from ubnlib.ranks import Ranks
from ubnlib.training import BNConfig

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
METHODS = {
    "BN": (BNConfig(), "side by side"),
    "UBN, side by side": (UBNForm(), "side by side"),
    "UBN, two passes": (UBNForm(), "two"),
}
WORKERS = {HELD: None, "no workers": 0, "2 workers": 2}
SETTINGS = {
    "cpu": [
        Setting(device="cpu", width=1, levels=7, size=(128, 416), rows=4, turn=1),
        Setting(device="cpu", width=0.25, levels=4, size=(32, 104), rows=8, turn=10),
    ],
    "cuda": [
        Setting(
            device="cuda",
            width=1,
            levels=7,
            size=(256, 832),
            rows=128,
            turn=4,
            frames=512,
            precision="bf16",
            channels_last=True,
        )
    ],
}
TINY = dict(width=0.05, levels=4, size=(32, 64), rows=4, turn=2, frames=16)
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
            return make_loader(config, data, MANY, workers=workers, ranks=ranks)

        engine = make_engine(config, loader(0), ranks)
        for name, workers in WORKERS.items():
            if workers is None:
                labeled, unlabeled = next(iter(loader(0)))
                here = (part and part.to(ranks.device) for part in (labeled, unlabeled))
                source = itertools.repeat(StepData(*here))
            else:
                source = stack.enter_context(closing(iter(loader(workers))))
            ahead = READ_AHEAD * (workers or 0)
            cases[name, method] = Case(engine, source, setting.turn, ahead)
    return {key: cases[key] for key in itertools.product(WORKERS, METHODS)}


def measure(
    setting: Setting, data: DepthData, repeats: int, tick: Callable = lambda: None
) -> list[Measurement]:
    """Measure all methods with all sources of data, in turns."""
    with ExitStack() as stack:
        cases = make_cases(setting, data, stack)
        turns = {key: case.turn for key, case in cases.items()}
        device, settle = setting.device, lambda key: cases[key].settle()
        times = alternate(turns, repeats, device, tick, settle)
    return [
        Measurement(
            method=method,
            data=name,
            images=setting.rows * (1 if method == "BN" else 2),
            flops=flops_of_step(config_of(setting, method, data), setting.size),
            milliseconds=[ms / setting.turn for ms in times[name, method]],
            waiting=[1000 * seconds / setting.turn for seconds in case.waited[-repeats:]],
        )
        for (name, method), case in cases.items()
    ]


def peak_memory(setting: Setting, method: str, folder: Path) -> float:
    """Return the MB that this process has at most when it does nothing but train."""
    torch.set_num_threads(setting.threads)
    data, ranks = data_of(PackedDepth(folder)), Ranks(0, 1, torch.device(setting.device))
    config = config_of(setting, method, data)
    make_engine(
        config, make_loader(config, data, MEMORY_STEPS, workers=0, ranks=ranks), ranks
    ).train()
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


def run(settings: list[Setting], repeats: int) -> Report:
    """Measure all settings."""
    origin, comparisons = provenance("ubnlib.depth_experiment"), []
    cases = len(WORKERS) * len(METHODS) * (WARM_UP + repeats)
    # Silent where nobody looks.
    with tqdm(total=len(settings) * (cases + len(METHODS)), unit="turn", disable=None) as bar:
        for setting in settings:
            bar.set_description(f"{setting.size[0]} x {setting.size[1]}")
            with tempfile.TemporaryDirectory() as folder:
                data, memory = pack_frames(setting, Path(folder)), {}
                for method in METHODS if can_tell_memory(setting.device) else ():
                    memory[method] = peak_of_process(setting, method, data.frames.folder)
                    bar.update()
                rows = measure(setting, data, repeats, bar.update)
            comparison = Comparison(setting=setting, measurements=rows, memory_mb=memory)
            comparisons.append(comparison)
            bar.write(comparison.markdown(origin))
    return Report(comparisons=comparisons, provenance=origin)


def can_tell_memory(device: str) -> bool:
    """Whether the peak of a process can be read: Linux keeps it, and torch for a GPU."""
    return device == "cuda" or sys.platform == "linux"


def main() -> int:
    """Parse the arguments, measure, say where the tables are."""
    parser = argparse.ArgumentParser(description=__doc__)
    add, here = parser.add_argument, "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=SETTINGS, default=here, help=f"where to train ({here})")
    add("--rows", type=int, help="labeled rows (4 and 8 on the CPU, 128 on CUDA)")
    add("--repeats", type=int, default=9, help="timed turns (9)")
    add("--threads", type=int, default=1, help="of torch on the CPU (1)")
    add("--quick", action="store_true", help="tiny sizes, which say nothing about speed")
    add("--out", type=Path, help="folder of the results (results/benchmarks; none if --quick)")
    arguments = parser.parse_args()
    out = arguments.out or (None if arguments.quick else RESULTS)
    try:
        for name, least in dict(rows=2, repeats=1, threads=1).items():
            given = getattr(arguments, name)
            if given is not None and given < least:
                raise ValueError(f"--{name} {given}: it must be at least {least}.")
        if arguments.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu.")
        torch.set_num_threads(arguments.threads)
        changes = dict(threads=arguments.threads) | (TINY if arguments.quick else {})
        if arguments.rows:
            changes["rows"] = arguments.rows
        settings = SETTINGS[arguments.device][: 1 if arguments.quick else None]
        settings = [setting.model_copy(update=changes) for setting in settings]
        report = run(settings, arguments.repeats)
        if out is not None:
            print(write_report(report, arguments.device, out))
    except torch.OutOfMemoryError:
        print("training: the GPU's memory is full: give fewer --rows.", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("training: interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
