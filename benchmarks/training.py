"""Measure the depth training: steps of BN and UBN, with and without reading their data.

Times go into training_cpu.json or training_cuda.json, and tables of them into the folder's
README.md.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path

import torch
from measuring import WARM_UP, alternate
from tqdm import tqdm
from training_cases import (
    METHODS,
    WORKERS,
    config_of,
    make_cases,
    pack_frames,
    peak_of_process,
)
from training_tables import Comparison, Measurement, Report, Setting, write_report

from experiments.common.provenance import provenance
from experiments.depth.data import DepthData
from experiments.depth.flops import flops_of_step

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
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


def run(settings: list[Setting], repeats: int, memory_of: Collection[str] = METHODS) -> Report:
    """Measure all settings, and the memory of some methods, each in a process of its own."""
    origin, comparisons = provenance(), []
    cases = len(WORKERS) * len(METHODS) * (WARM_UP + repeats)
    # Silent where nobody looks.
    with tqdm(total=len(settings) * (cases + len(memory_of)), unit="turn", disable=None) as bar:
        for setting in settings:
            bar.set_description(f"{setting.size[0]} x {setting.size[1]}")
            with tempfile.TemporaryDirectory() as folder:
                data, memory = pack_frames(setting, Path(folder)), {}
                for method in memory_of if can_tell_memory(setting.device) else ():
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
    add("--quick", action="store_true", help="tiny sizes, which say nothing; memory of BN only")
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
        # A process takes much longer to start than to train a tiny net.
        memory_of = ["BN"] if arguments.quick else list(METHODS)
        report = run(settings, arguments.repeats, memory_of)
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
