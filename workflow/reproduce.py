"""Make a profile's runs, run its notebooks and write the report: what `make reproduce` does.

With --plan, say what that would be, and run nothing (`make plan`). With --prepare, pack the frames
and write each run's configuration, and train nothing (`make prepare`). With --claim, make the runs
behind one claim once more, in a folder of their own, and judge it by both (`make claim`).
Interrupted or failed, the same command goes on where it stopped.
"""

import argparse
import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.common.arguments import whole_number
from job import describe, duration, say
from parameters import ProfileError, check_kitti, run_parameters

FOLDER = Path(__file__).parent
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Check the arguments before anything runs; return the exit status."""
    args = parse()
    start = time.monotonic()
    try:
        if args.claim == "":  # what `make claim` gives without CLAIM
            raise ProfileError("Which claim? Give its id in claims.yaml: CLAIM=fig2-accuracy.")
        kitti_root = check_kitti(args.kitti_root)
        results = Path("results", args.profile + ("-kitti" if kitti_root else "")).absolute()
        parameters = run_parameters(args.profile, Path.cwd(), results, kitti_root, args.split)
        where = cluster(args.cluster) if args.cluster else ["--cores", str(args.cores)]
        if args.plan:
            from plan import make_plan, text_of  # imports torch: not for a misspelt argument

            print(text_of(make_plan(args.profile, results, parameters), args.cores))
            return 0
        folder = results / "claims" / args.claim if args.claim else results
        if args.claim:
            from claim import answering
            from plan import make_plan

            answering(args.claim, make_plan(args.profile, folder, parameters))  # or refuses
        with locked(folder) as lock:
            code = reproduce(args, folder, parameters, where, lock)
        if args.claim and not code:
            from claim import compare

            print(compare(args.claim, folder, results, args.profile))
    except (ValueError, OSError) as error:
        print(describe(error), file=sys.stderr)
        return 2
    took = duration(time.monotonic() - start)
    if code:
        print(
            f"{'Interrupted' if code == 130 else 'Not finished'} after {took}; what is done is "
            f"kept, and the same command goes on from there. Logs: {folder / 'logs'}",
            file=sys.stderr,
        )
        if code != 130 and not args.claim:
            write = [sys.executable, FOLDER / "report.py", f"profiles/{args.profile}.yaml", results]
            if not subprocess.run(write, check=False).returncode:
                print(f"What there is, and what is missing: {results / 'report.html'}")
        return code
    if args.prepare or args.claim:
        return 0
    print(f"All done, {took}. Open in a browser:\n{results / 'report.html'}")
    return 0


def reproduce(
    args: argparse.Namespace, results: Path, parameters: dict, where: list[str], lock: int
) -> int:
    """Plan and run; return the exit status."""
    from plan import Plan, make_plan, set_aside, write_plan  # these import torch

    gpus = args.gpus if args.gpus is not None else 1 if args.cluster else graphics()
    # Of a cluster's jobs Snakemake tells; those on this machine speak for themselves.
    log = None if args.cluster else results / "logs" / "snakemake.log"

    def snakemake(target: str) -> int:
        """Run a part of the plan. Snakemake's own lock outlives a killed run: `locked` does not."""
        command = [
            sys.executable, "-m", "snakemake", target, "--snakefile", str(FOLDER / "Snakefile"),
            *where, "--resources", f"gpu={gpus}", "--keep-going",
            "--rerun-incomplete", "--nolock", "--rerun-triggers", "mtime", "params",
            "--scheduler", "greedy",
            "--config", f"plan={os.path.relpath(path)}", f"gpus={gpus}",
            *([] if args.cluster else [f"cores={args.cores}"]),
        ]  # fmt: skip
        return run(command, lock, log)

    def planned() -> Plan:
        plan = make_plan(args.profile, results, parameters)
        if not args.claim:
            return plan
        from claim import answering

        return plan._replace(runs=answering(args.claim, plan))

    plan = planned()
    if plan.frames is None and any(p.needs_frames for p in plan.runs):
        (results / "frames.json").unlink(missing_ok=True)
        path = write_plan(plan._replace(runs=[]), args.cores)
        if code := snakemake("frames"):
            return code
        plan = planned()
    for sentence in set_aside(plan):
        say(sentence)
    path = write_plan(plan, args.cores, notebooks=not args.claim)
    if args.prepare:
        say(f"frames: {plan.frames['packed'] if plan.frames else 'none needed'}")
        say(f"configurations of {len(plan.runs)} runs: {results / 'runs'}; nothing was trained")
        return 0
    outdated = sum(planned.state == "outdated" for planned in plan.runs)
    why = "since their version is older or their net is missing"
    again = f", {outdated} of them again, {why}" if outdated else ""
    say(f"{len(plan.to_make)} of {len(plan.runs)} runs to make{again}")
    return snakemake("runs" if args.claim else "all")


def cluster(name: str) -> list[str]:
    """Return Snakemake's arguments for a cluster: a folder in profiles/, or any by its path."""
    for folder in (FOLDER / "profiles" / name, Path(name)):
        if (folder / "config.yaml").is_file():
            return ["--workflow-profile", str(folder.absolute())]
    there = ", ".join(sorted(path.name for path in (FOLDER / "profiles").iterdir()))
    raise ProfileError(
        f"There is no cluster '{name}': workflow/profiles has {there}, and {Path(name).absolute()} "
        "is no folder with a config.yaml."
    )


@contextlib.contextmanager
def locked(results: Path) -> Iterator[int]:
    """Hold a lock that ends with this process and Snakemake's, which inherits it."""
    results.mkdir(parents=True, exist_ok=True)
    with (results / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = (results / ".lock").read_text()
            how = f" (kill -INT -{number})" if number else ""
            message = f"Another run is writing to {results}; wait for it to end, or stop it{how}."
            raise ProfileError(message) from None
        yield lock.fileno()


def graphics() -> int:
    """Return how many graphics processors this machine has."""
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    return len(found.stdout.splitlines())


def run(command: list[str], lock: int, log: Path | None) -> int:
    """Run a command in a process group of its own: what stops this process stops all of it."""
    print(shlex.join(command), flush=True)
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") if log else contextlib.nullcontext() as messages:
        process = subprocess.Popen(
            command, pass_fds=[lock], stdin=subprocess.DEVNULL, stderr=messages, process_group=0
        )
        os.truncate(lock, 0)
        os.pwrite(lock, str(process.pid).encode(), 0)
        interrupted = False

        def stop(*_: object) -> None:
            nonlocal interrupted
            interrupted = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)

        before = {number: signal.signal(number, stop) for number in STOPPING}
        try:
            code = process.wait()
            return 130 if interrupted else code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--kitti-root", default="", help="folder of KITTI Raw; synthetic if empty")
    parser.add_argument("--split", default="", help="paper_standin, eigen or by_drive")
    parser.add_argument("--cores", default="all", type=cores_of)
    parser.add_argument("--cluster", default="", help="a folder in workflow/profiles, or a path")
    parser.add_argument("--gpus", default=None, type=gpus_of, help="all, if nothing is said")
    parser.add_argument("--plan", action="store_true", help="say what would run, and run nothing")
    parser.add_argument("--prepare", action="store_true", help="pack and configure, train nothing")
    parser.add_argument("--claim", help="only the runs behind this claim, once more")
    return parser.parse_args()


def cores_of(text: str) -> int:
    """Read a number of cores; "all" means those that this process may use."""
    if text != "all":
        return whole_number(text, instead=", or 'all'")
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def gpus_of(text: str) -> int | None:
    """Read a number of graphics processors; "", which `make` gives, leaves it open."""
    return whole_number(text, least=0) if text else None


if __name__ == "__main__":
    sys.exit(main())
