"""Run a profile's notebooks and say where the results are: what `make reproduce` does.

Checks the arguments, then runs Snakemake in the project's folder. Interrupted or failed, the same
command goes on where it stopped.
"""

import argparse
import fcntl
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from check_profile import ProfileError, check_kitti, run_parameters
from terminal import duration


def snakemake(profile: str, kitti_root: str, cores: str) -> list[str]:
    """Give the command that runs the workflow.

    `--nolock`: Snakemake's own lock outlives a killed run; `main` holds one that does not.
    """
    return [
        sys.executable, "-m", "snakemake",
        "--snakefile", str(Path(__file__).with_name("Snakefile")),
        "--cores", cores, "--keep-going", "--rerun-incomplete", "--nolock", "--quiet", "all",
        "--config", f"profile={json.dumps(profile)}", f"kitti_root={json.dumps(kitti_root)}",
    ]  # fmt: skip


def wait(process: subprocess.Popen) -> int:
    """Wait for a process; Ctrl-C reaches it too, so let it end in its own time."""
    interrupted = False
    while True:
        try:
            code = process.wait()
            return 130 if interrupted else code
        except KeyboardInterrupt:
            interrupted = True


def main() -> int:
    """Check, run, report; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--kitti-root", default="", help="folder of KITTI Raw; synthetic if empty")
    parser.add_argument("--cores", default="all")
    args = parser.parse_args()
    start = time.monotonic()
    try:
        kitti_root = check_kitti(args.kitti_root)
        results = Path("results", args.profile + ("-kitti" if kitti_root else "")).absolute()
        run_parameters(args.profile, Path.cwd(), results, kitti_root)
    except ProfileError as error:
        print(error, file=sys.stderr)
        return 2
    results.mkdir(parents=True, exist_ok=True)
    with (results / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another run is writing to {results}; wait for it to end.", file=sys.stderr)
            return 2
        command = snakemake(args.profile, kitti_root, args.cores)
        print(shlex.join(command), flush=True)
        code = wait(subprocess.Popen(command, pass_fds=[lock.fileno()]))
    if code:
        state = "Interrupted" if code == 130 else "Not finished"
        print(
            f"{state} after {duration(time.monotonic() - start)}; what is done is kept, and the "
            f"same command goes on from there. Logs: {results / 'logs'}",
            file=sys.stderr,
        )
        return code
    print(f"All done, {duration(time.monotonic() - start)}. Open in a browser:")
    print(results / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
