"""Compare what a training step costs: BN, two passes, a joint pass, and ubn_forward.

Every setting's times go into a JSON file of its own, and all of them into the folder's README.md.
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import WARM_UP, alternate, layers_in_eval, peak_of_process, peak_on_gpu
from tables import Comparison, Measurement, table, write_comparison, write_readme
from tqdm import tqdm
from training_steps import METHODS, WORKLOADS, Setting, training_step

from experiments.common.provenance import provenance

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
ARENAS = {"default": False, "one arena": True}
LAYER_REPEATS = 31


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--device", nargs="+", choices=("cpu", "cuda"), help="default: all there are")
    add("--models", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="default: both")
    add("--k", nargs="+", type=int, default=[0, 1, 3], help="unlabeled per labeled row (0 1 3)")
    add("--rows", type=int, help="labeled rows (4 for dispnet, 32 for resnet)")
    add("--width", type=float, default=1.0, help="multiplier of the hidden channels (1)")
    add("--size", nargs=2, type=int, metavar=("H", "W"), help="of the images (128 416; 32 32)")
    for name, choices in {
        "precision": ("fp32", "bf16"),
        "layout": ("contiguous", "channels_last"),
        "mode": ("eager", "compiled"),
    }.items():
        text = f"default: {choices[0]} on the CPU, both on CUDA"
        add(f"--{name}", nargs="+", choices=choices, help=text)
    add("--repeats", type=int, default=9, help="timed steps of every method (9)")
    add("--threads", type=int, default=1, help="of torch on the CPU (1)")
    add("--skip-memory", action="store_true", help="do not measure memory on the CPU")
    add("--out", type=Path, default=RESULTS, help="folder of the results (results/benchmarks)")
    add("--table", action="store_true", help="measure nothing, only write README.md anew")
    return parser.parse_args()


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse numbers that nothing can be measured with.

    Raises:
        ValueError: Says which.
    """
    least = dict(rows=2, repeats=1, threads=1, k=0, size=1)  # BN needs two values per channel
    for name, minimum in least.items():
        given = getattr(arguments, name)
        smallest = min(given) if isinstance(given, list) else given
        if smallest is not None and smallest < minimum:
            raise ValueError(f"--{name} {smallest}: it must be at least {minimum}.")
    if not 0 < arguments.width < float("inf"):
        raise ValueError(f"--width {arguments.width:g}: it must be above 0.")
    if "cuda" in (arguments.device or ()) and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu.")


def settings_of(arguments: argparse.Namespace) -> list[Setting]:
    """Combine the options into settings."""
    present = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    settings = []
    for device in arguments.device or present:
        count = 2 if device == "cuda" else 1
        for model, precision, layout, mode in itertools.product(
            arguments.models,
            arguments.precision or ["fp32", "bf16"][:count],
            arguments.layout or ["contiguous", "channels_last"][:count],
            arguments.mode or ["eager", "compiled"][:count],
        ):
            setting = Setting(
                device=device,
                model=model,
                width=arguments.width,
                size=arguments.size or WORKLOADS[model].size,
                rows=arguments.rows or WORKLOADS[model].rows,
                precision=precision,
                layout=layout,
                mode=mode,
                threads=arguments.threads,
            )
            settings.append(setting)
    return settings


def measure(setting: Setting, k: int, repeats: int, memory: bool, tick: Callable) -> Measurement:
    """Measure all methods at one k; `memory` is whether also in processes of their own."""
    torch.compiler.reset()  # graphs of other settings count against torch's limit
    steps = {method: training_step(setting, k, method) for method in METHODS}
    losses = {method: float(step()) for method, step in steps.items()}
    times = alternate(steps, repeats, setting.device, tick)
    memory_mb = {}
    if setting.device == "cuda":
        memory_mb["default"] = {method: peak_on_gpu(step) for method, step in steps.items()}
    del steps
    for name, one_arena in ARENAS.items() if memory else ():
        memory_mb[name] = {}
        for method in METHODS:
            rows = 0 if method == "BN" else k  # which BN does not see
            memory_mb[name][method] = peak_of_process(setting, rows, method, one_arena)
            tick()
    return Measurement(k=k, milliseconds=times, losses=losses, memory_mb=memory_mb)


def run(arguments: argparse.Namespace) -> None:
    """Measure everything, and write and print each comparison when it is done."""
    origin = provenance()  # the files written below are no changes of the code that is measured
    code = dict(revision=origin.revision, clean=origin.clean)
    settings, ks = settings_of(arguments), sorted(set(arguments.k))
    no_processes = arguments.skip_memory or sys.platform != "linux"
    # The compiler's own memory would count where it runs in the first step.
    in_processes = [s.device == "cpu" and s.mode == "eager" and not no_processes for s in settings]
    rounds = [WARM_UP + arguments.repeats + len(ARENAS) * memory for memory in in_processes]
    # Silent where nobody looks.
    with tqdm(total=sum(rounds) * len(ks) * len(METHODS), unit="step", disable=None) as bar:
        for setting, memory in zip(settings, in_processes, strict=True):
            bar.set_description(f"{setting.model} on {setting.device}")
            measurements = [measure(setting, k, arguments.repeats, memory, bar.update) for k in ks]
            layers = layers_in_eval(setting.device, setting.rows)
            comparison = Comparison(
                setting=setting,
                measurements=measurements,
                eval_layer_milliseconds=alternate(layers, LAYER_REPEATS, setting.device),
                provenance=provenance().model_copy(update=code),
            )
            write_comparison(comparison, arguments.out)
            bar.write(table(comparison))


def main() -> int:
    """Parse the arguments, measure, say where the tables are."""
    arguments = parse_arguments()
    try:
        check_arguments(arguments)
        torch.set_num_threads(arguments.threads)
        if not arguments.table:
            run(arguments)
        print(write_readme(arguments.out))
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
