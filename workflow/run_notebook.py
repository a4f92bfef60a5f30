"""Run one notebook with papermill, as one job of the workflow.

The executed notebook gets its final name last, so a file of that name is always a finished run:
`NAME.partial.ipynb` while it runs, `NAME.failed.ipynb` if it fails, `NAME.ipynb` at the end.
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

import papermill

from terminal import describe, duration, say


def run_notebook(source: Path, target: Path, parameters: dict, log: Path) -> None:
    """Execute a notebook in its own folder.

    Args:
        source: The notebook to run.
        target: The executed notebook.
        parameters: Values for its `parameters` cell.
        log: The file that papermill's progress and errors go to, named to the user.

    Raises:
        SystemExit: The notebook failed; it is kept beside `target` and the user has been told.
    """
    partial = target.with_name(f"{target.stem}.partial.ipynb")
    failed = target.with_name(f"{target.stem}.failed.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    say(f"{source.stem} starts (log: {log})")
    start = time.monotonic()
    try:
        papermill.execute_notebook(
            str(source),
            str(partial),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(source.parent),
            log_output=True,
            progress_bar=False,
        )
    except papermill.PapermillExecutionError as error:
        logging.error("%s", error)
        partial.replace(failed)
        last_line = (error.evalue.strip().splitlines() or [""])[-1]
        say(
            f"{source.stem} FAILED after {duration(time.monotonic() - start)}: "
            f"{error.ename}: {last_line}\n"
            f"          kept up to the error: {failed}"
        )
        raise SystemExit(1) from None
    except BaseException as error:  # Ctrl-C, a kernel that died: nothing worth keeping
        logging.error("%s: %s", type(error).__name__, error)
        partial.unlink(missing_ok=True)
        say(f"{source.stem} stopped: {describe(error)} (log: {log})")
        raise SystemExit(1) from None
    partial.replace(target)
    say(f"{source.stem} done in {duration(time.monotonic() - start)}")


def main() -> None:
    """Read the command line, prepare the process the kernel inherits from, and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--parameters", type=json.loads, default={}, help="a JSON object")
    parser.add_argument("--threads", type=int, default=1, help="processor threads to use")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not the user's
    os.environ.pop("MPLBACKEND", None)  # the kernel chooses the one that shows figures inline
    # Whatever the kernel or a library says on the side goes to the log, not to the terminal.
    args.log.parent.mkdir(parents=True, exist_ok=True)
    with args.log.open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run_notebook(args.source.absolute(), args.target, args.parameters, args.log)


if __name__ == "__main__":
    main()
