"""A queue on this machine, for tests: submitted scripts run as processes of their own.

    python stand_in_cluster.py FOLDER submit SCRIPT    prints the job's number
    python stand_in_cluster.py FOLDER status NUMBER    prints running, success or failed
    python stand_in_cluster.py FOLDER cancel NUMBER ...

A job's process group has the job's number; a job that was killed leaves no exit status: it failed.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def submit(folder: Path, script: str) -> None:
    """Start a script that outlives whoever submits it."""
    command = 'sh "$1"; echo $? > "$0/$$.exit"'
    output = (folder / "output").open("a")
    process = subprocess.Popen(
        ["sh", "-c", command, str(folder), script],
        stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
    )  # fmt: skip
    (folder / f"{process.pid}.job").write_text(script)
    print(process.pid)


def status(folder: Path, number: str) -> None:
    """Say how a job stands."""
    ended = folder / f"{number}.exit"
    if ended.exists():
        print("success" if ended.read_text().strip() == "0" else "failed")
    else:
        print("running" if alive(int(number)) else "failed")


def alive(number: int) -> bool:
    """Whether a process runs; one that has ended and is not yet reaped does not."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def cancel(folder: Path, *numbers: str) -> None:
    """Kill jobs."""
    for number in numbers:
        os.killpg(int(number), signal.SIGKILL)


if __name__ == "__main__":
    actions = {"submit": submit, "status": status, "cancel": cancel}
    actions[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
