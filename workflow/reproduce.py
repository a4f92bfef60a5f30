"""Make a profile's runs, run its notebooks and write the report: what `make reproduce` does.

Checks the arguments, plans, then runs Snakemake in the project's folder. Interrupted or failed,
the same command goes on where it stopped.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from check_profile import ProfileError, check_kitti, run_parameters
from terminal import describe, duration, say

FOLDER = Path(__file__).parent
DATA = "03_depth_experiments"  # the notebook whose runs need frames


def main() -> int:
    """Check, plan, run, report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    start = time.monotonic()
    try:
        profile, results, parameters = checked(args)
        with locked(results) as lock:
            try:
                code = reproduce(args, profile, results, parameters, lock)
            except KeyboardInterrupt:
                code = 130
    except (ProfileError, ValueError) as error:
        print(describe(error), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{results}: {describe(error)}; what is done is kept.", file=sys.stderr)
        return 2
    took = duration(time.monotonic() - start)
    if code:
        state = "Interrupted"
        if code != 130:
            state = "Not finished"
            write_report(args.profile, results)
        print(
            f"{state} after {took}; what is done is kept, and the same command goes on from "
            f"there. Logs: {results / 'logs'}",
            file=sys.stderr,
        )
        return code
    print(f"All done, {took}. Open in a browser:\n{results / 'report.html'}")
    return 0


def checked(args: argparse.Namespace) -> tuple[str, Path, dict[str, dict[str, Any]]]:
    """Check the arguments; return profile, results folder and all parameters by notebook."""
    kitti_root = check_kitti(args.kitti_root)
    if args.cluster:
        cluster_folder(args.cluster)
    results = Path("results", args.profile + ("-kitti" if kitti_root else "")).absolute()
    return args.profile, results, run_parameters(args.profile, Path.cwd(), results, kitti_root)


def cluster_folder(name: str) -> Path:
    """Return the folder of a cluster's profile: one of those here, or any other by its path."""
    for folder in (FOLDER / "profiles" / name, Path(name)):
        if (folder / "config.yaml").is_file():
            return folder.absolute()
    there = ", ".join(sorted(path.name for path in (FOLDER / "profiles").iterdir()))
    raise ProfileError(
        f"There is no cluster '{name}': workflow/profiles has {there}, and {Path(name).absolute()} "
        "is no folder with a config.yaml."
    )


@contextlib.contextmanager
def locked(results: Path) -> Iterator[int]:
    """Hold the results folder's lock, which ends with the process, however that ends."""
    results.mkdir(parents=True, exist_ok=True)
    with (results / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProfileError(
                f"Another run is writing to {results}; wait for it to end."
            ) from None
        yield lock.fileno()


def reproduce(
    args: argparse.Namespace,
    profile: str,
    results: Path,
    parameters: dict[str, dict[str, Any]],
    lock: int,
) -> int:
    """Plan and run; return the exit status."""
    from costs import costs_of, disk_mb  # these import torch: not for a misspelt argument
    from plan import make_plan, set_aside, write_plan

    # Of a cluster's jobs Snakemake tells; those on this machine speak for themselves.
    log = None if args.cluster else results / "logs" / "snakemake.log"
    plan = make_plan(profile, results, parameters)
    check_space(results, disk_mb(plan))
    if DATA in parameters and plan.data is None:
        (results / "data.json").unlink(missing_ok=True)
        path = write_plan(plan, {})
        if code := run(snakemake(path, args, ["data"]), lock, log):
            return code
        plan = make_plan(profile, results, parameters)
    for sentence in set_aside(plan):
        say(sentence)
    path = write_plan(plan, costs_of(plan))
    outdated = sum(planned.state == "outdated" for planned in plan.runs)
    again = f", {outdated} of them again, since their version is older" if outdated else ""
    say(f"{len(plan.to_make)} of {len(plan.runs)} runs to make{again}")
    return run(snakemake(path, args, ["all"]), lock, log)


def check_space(results: Path, needed_mb: float) -> None:
    """Check that the disk has room for what is yet to be written."""
    free_mb = shutil.disk_usage(results).free / 1e6
    if free_mb < needed_mb:
        raise ProfileError(
            f"About {needed_mb:,.0f} MB are needed, and {results} has {free_mb:,.0f} MB free: "
            "make room, or run in a folder on another disk."
        )


def snakemake(plan: Path, args: argparse.Namespace, targets: Sequence[str]) -> list[str]:
    """Give the command that runs a part of the workflow.

    `--nolock`: Snakemake's own lock outlives a killed run; `locked` holds one that does not.

    Args:
        plan: The plan's file.
        args: `cores`, `gpus` and `cluster`.
        targets: Rules.
    """
    gpus = args.gpus if args.gpus is not None else 1 if args.cluster else graphics()
    where = ["--cores", str(args.cores), "--resources", f"gpu={gpus}", "--quiet", "all"]
    if args.cluster:
        where = ["--workflow-profile", str(cluster_folder(args.cluster))]
    return [
        sys.executable, "-m", "snakemake", *targets,
        "--snakefile", str(FOLDER / "Snakefile"), *where,
        "--keep-going", "--rerun-incomplete", "--nolock",
        "--rerun-triggers", "mtime", "params", "--scheduler", "greedy",
        "--config", f"plan={json.dumps(str(plan))}", f"gpus={gpus}",
        *([] if args.cluster else [f"cores={args.cores}"]),
    ]  # fmt: skip


def write_report(profile: str, results: Path) -> None:
    """Report what there is and what is not, where the workflow could not come to its end."""
    script = FOLDER / "make_report.py"
    done = subprocess.run(
        [sys.executable, script, f"profiles/{profile}.yaml", results], check=False
    )
    if not done.returncode:
        print(f"What there is, and what is missing: {results / 'report.html'}", flush=True)


def graphics() -> int:
    """Return how many graphics processors this machine has."""
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    return len(found.stdout.splitlines())


def run(command: Sequence[str], lock: int, log: Path | None) -> int:
    """Run a command that shares the lock; Ctrl-C reaches it too, so let it end in its own time.

    Args:
        command: What to run.
        lock: The lock's file descriptor.
        log: Where its messages go; None means the terminal.
    """
    print(shlex.join(command), flush=True)
    with contextlib.ExitStack() as stack:
        messages = None
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
            messages = stack.enter_context(log.open("w", encoding="utf-8"))
        process = subprocess.Popen(command, pass_fds=[lock], stderr=messages)
        interrupted = False
        while True:
            try:
                code = process.wait()
                return 130 if interrupted else code
            except KeyboardInterrupt:
                interrupted = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which runs, and where."""
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--kitti-root", default="", help="folder of KITTI Raw; synthetic if empty")
    parser.add_argument("--cores", default="all", type=cores_of)
    parser.add_argument("--cluster", default="", help="a folder in workflow/profiles, or a path")
    parser.add_argument("--gpus", default="", type=gpus_of, help="graphics processors to use")


def gpus_of(text: str) -> int | None:
    """Read a number of graphics processors; none given means all."""
    if text and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number.")
    return int(text) if text else None


def cores_of(text: str) -> int:
    """Read a number of cores; "all" means those that this process may use."""
    if text.isdecimal() and int(text):
        return int(text)
    if text != "all":
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 1 on nor 'all'.")
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


if __name__ == "__main__":
    sys.exit(main())
