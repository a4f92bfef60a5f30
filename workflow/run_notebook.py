"""Run one notebook with papermill, as one job of the workflow.

    python workflow/run_notebook.py SOURCE TARGET LOG THREADS PARAMETERS

The executed notebook gets its final name last, so a file of that name is always a finished run:
`NAME.partial.ipynb` while it runs, `NAME.failed.ipynb` if it fails, `NAME.ipynb` at the end.
"""

import json
import os
import sys
import time
from pathlib import Path

import papermill

from job import duration, log_to, say, told


def run_notebook(source: Path, target: Path, parameters: dict, log: Path) -> None:
    """Execute a notebook in its own folder."""
    partial = target.with_name(f"{target.stem}.partial.ipynb")
    failed = target.with_name(f"{target.stem}.failed.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    say(f"{source.stem} starts (log: {log})")
    start = time.monotonic()
    try:
        with told(source.stem, log):
            options = dict(kernel_name="python3", log_output=True, progress_bar=False)
            files = str(source), str(partial)
            papermill.execute_notebook(*files, parameters, cwd=str(source.parent), **options)
    except SystemExit as error:
        # What failed in a cell is worth reading; after Ctrl-C or a dead kernel nothing is.
        if isinstance(error.__context__, papermill.PapermillExecutionError):
            partial.replace(failed)
            say(f"{source.stem} is kept up to the error: {failed}")
        partial.unlink(missing_ok=True)
        raise
    partial.replace(target)
    say(f"{source.stem} done in {duration(time.monotonic() - start)}")


def main(source: str, target: str, log: str, threads: str, parameters: str) -> None:
    """Prepare the process that the kernel inherits from, and run."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = threads
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not the user's
    os.environ.pop("MPLBACKEND", None)  # the kernel chooses the one that shows figures inline
    log_to(Path(log))
    run_notebook(Path(source), Path(target), json.loads(parameters), Path(log))


if __name__ == "__main__":
    main(*sys.argv[1:])
