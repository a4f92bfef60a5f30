"""Compare what a training step costs: BN, two passes, a joint pass, and ubn_forward.

Every result goes into a JSON file of its own, and all of them into the folder's README.md.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from tables import Comparison, Measurement, details, limits, title, write_comparison, write_table
from tqdm import tqdm
from training_steps import (
    METHODS,
    WARM_UP,
    WORKLOADS,
    Setting,
    Step,
    alternate,
    layers_in_eval,
    peak_of_process,
    peak_on_gpu,
    training_step,
)

from ubnlib.records import provenance

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
ALLOCATORS = {"default": {}, "one arena": {"MALLOC_ARENA_MAX": "1"}}  # by environment
LAYER_REPEATS = 31


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    several = dict(nargs="+", default=argparse.SUPPRESS)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="cpu, cuda (default: all there are)", **several
    )
    parser.add_argument("--models", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument(
        "--k", nargs="+", type=int, default=[0, 1, 3], help="unlabeled rows per labeled row"
    )
    parser.add_argument("--rows", type=int, help="labeled rows (default: dispnet 4, resnet 32)")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of hidden channels")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="(default: the model's own)"
    )
    for name, choices in {
        "precision": ("fp32", "bf16"),
        "layout": ("contiguous", "channels_last"),
        "mode": ("eager", "compiled"),
    }.items():
        text = f"{', '.join(choices)} (default: {choices[0]}; on CUDA both)"
        parser.add_argument(f"--{name}", choices=choices, help=text, **several)
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of every method")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--table", action="store_true", help="only write README.md anew")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    parser.add_argument("--peak-memory", help=argparse.SUPPRESS)  # what a fresh process is for
    return parser.parse_args()


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse numbers that nothing can be measured with.

    Raises:
        ValueError: Says which.
    """
    least = {"rows": 2, "repeats": 1, "threads": 1}  # BN needs two values per channel
    for name, minimum in least.items():
        value = getattr(arguments, name)
        if value is not None and value < minimum:
            raise ValueError(f"--{name} is {value}: it must be at least {minimum}.")
    if min(arguments.k) < 0:
        raise ValueError(f"--k holds {min(arguments.k)}: there is no negative number of rows.")
    if not 0 < arguments.width < float("inf"):
        raise ValueError(f"--width is {arguments.width:g}: it must be above 0.")
    if arguments.size and min(arguments.size) < 1:
        raise ValueError(f"--size is {arguments.size}: height and width must be at least 1.")
    if "cuda" in getattr(arguments, "device", ()) and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu.")


def settings_of(arguments: argparse.Namespace) -> list[Setting]:
    """Combine the options into settings."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    settings = []
    for device in getattr(arguments, "device", devices):
        both = {"cpu": 1, "cuda": 2}[device]
        for model, precision, layout, mode in itertools.product(
            arguments.models,
            getattr(arguments, "precision", ("fp32", "bf16")[:both]),
            getattr(arguments, "layout", ("contiguous", "channels_last")[:both]),
            getattr(arguments, "mode", ("eager", "compiled")[:both]),
        ):
            setting = Setting(
                device=device,
                model=model,
                width=arguments.width,
                size=tuple(arguments.size or WORKLOADS[model].size),
                rows=arguments.rows or WORKLOADS[model].rows,
                precision=precision,
                layout=layout,
                mode=mode,
                threads=arguments.threads,
            )
            settings.append(setting)
    return settings


def measure(setting: Setting, k: int, repeats: int, tick: Step) -> Measurement:
    """Measure all methods at one k."""
    torch.compiler.reset()  # compiled graphs of other settings count against torch's limit
    steps = {method: training_step(setting, k, method) for method in METHODS}
    losses = {method: float(step()) for method, step in steps.items()}
    times = alternate(steps, repeats, setting.device, tick)
    memory = {}
    if setting.device == "cuda":
        memory["default"] = {method: peak_on_gpu(step) for method, step in steps.items()}
    elif setting.mode == "eager" and sys.platform == "linux":  # else the compiler's own would count
        del steps
        for name, environment in ALLOCATORS.items():
            memory[name] = {}
            for method in METHODS:
                memory[name][method] = in_fresh_process(setting, k, method, environment)
                tick()
    return Measurement(k=k, milliseconds=times, losses=losses, memory_mb=memory)


def in_fresh_process(setting: Setting, k: int, method: str, environment: dict[str, str]) -> float:
    """Measure one method's memory where nothing else has run before."""
    inherited = {name: os.environ[name] for name in os.environ if name != "MALLOC_ARENA_MAX"}
    job = json.dumps({"setting": setting.model_dump(), "k": k, "method": method})
    process = subprocess.run(
        [sys.executable, __file__, "--peak-memory", job],
        env=inherited | environment,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise OSError(f"the process that measures the memory of {method!r} failed: {reason}")
    return float(process.stdout)


def run(arguments: argparse.Namespace) -> None:
    """Measure everything, writing each comparison when it is done."""
    settings, origin = settings_of(arguments), provenance()
    rounds = (WARM_UP + arguments.repeats) * len(METHODS)
    children = len(ALLOCATORS) * len(METHODS)
    counts = [rounds + children * (s.device == "cpu" and s.mode == "eager") for s in settings]
    done = []
    with tqdm(
        total=sum(counts) * len(set(arguments.k)), unit="step", disable=arguments.quiet
    ) as bar:
        for setting in settings:
            bar.set_description(f"{setting.model} on {setting.device}")
            comparison = Comparison(
                setting=setting,
                measurements=[
                    measure(setting, k, arguments.repeats, bar.update)
                    for k in sorted(set(arguments.k))
                ],
                eval_layer_milliseconds=alternate(
                    layers_in_eval(setting.device, setting.rows), LAYER_REPEATS, setting.device
                ),
                # The files written here are no changes of the code that was measured.
                provenance=provenance().model_copy(
                    update={"revision": origin.revision, "dirty": origin.dirty}
                ),
            )
            write_comparison(comparison, arguments.out)
            done.append(comparison)
    for comparison in done:
        print(f"{title(comparison)}\n\n{details(comparison)}")
    print(limits(done))


def main() -> int:
    """Parse the arguments, measure, print the tables."""
    arguments = parse_arguments()
    try:
        check_arguments(arguments)
        torch.set_num_threads(arguments.threads)
        if arguments.peak_memory:
            job = json.loads(arguments.peak_memory)
            setting = Setting(**job["setting"])
            torch.set_num_threads(setting.threads)
            print(peak_of_process(training_step(setting, job["k"], job["method"])))
            return 0
        if not arguments.table:
            run(arguments)
        print(write_table(arguments.out))
    except torch.OutOfMemoryError:
        print("ubn_step: the GPU's memory is full: give fewer --rows.", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"ubn_step: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ubn_step: interrupted; what was finished is kept.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
