"""What the jobs of the workflow share: a log of their own, and lines for the terminal."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.common.files import first_error


def say(message: str) -> None:
    """Print one dated line at once; several jobs share the terminal."""
    print(f"{time.strftime('%H:%M:%S')}  {message}", flush=True)


def duration(seconds: float) -> str:
    """Write a time span as a reader would: 42 s, 3 min 05 s, 2 h 07 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def describe(error: BaseException) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C"
    if hasattr(error, "errors"):  # pydantic's, of a configuration
        return first_error(error)
    if hasattr(error, "ename"):  # papermill's, of what failed in a notebook
        return f"{error.ename}: {error.evalue}".strip().splitlines()[-1]
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def log_to(log: Path) -> None:
    """Send what this process or a library says on the side to a file, not to the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


@contextlib.contextmanager
def told(what: str, log: Path) -> Iterator[None]:
    """End the process where a block fails, with one line on why: status 1, of Ctrl-C 130."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        logging.exception(what)
        stopped = isinstance(error, KeyboardInterrupt)
        say(f"{what} {'stopped' if stopped else 'FAILED'}: {describe(error)} (log: {log})")
        raise SystemExit(130 if stopped else 1) from None
