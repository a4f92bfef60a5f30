"""Many runs, several at a time: the records of a list of configurations."""

import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

from experiments.common.records import Config, Record, obtain


def obtain_all(
    configs: Sequence[Config],
    run: Callable[[Config], Record],
    folder: Path | str,
    *,
    processes: int = 1,
    progress: str | None = None,
) -> list[Record]:
    """Return the records of configurations, in their order, making the missing ones.

    Equal ones run once. Each record is written when its run ends, so that a stopped sweep goes on
    where it was; a run that fails ends the sweep with its error, after the runs that are under way.
    Several `processes` have one thread each, and `run` must be a function that a module has by its
    name; 1 runs all here.
    """
    unique = {config.key: config for config in configs}
    work = functools.partial(obtain, run=run, folder=folder)
    made = _made(work, unique.values(), processes)
    bar = tqdm(made, progress, len(unique), leave=False, disable=progress is None)
    records = {record.key: record for record in bar}
    return [records[config.key] for config in configs]


def _made(
    work: Callable[[Config], Record], configs: Iterable[Config], processes: int
) -> Iterator[Record]:
    """Yield records as they are made."""
    if processes == 1:
        yield from map(work, configs)
        return
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads
    pool = ProcessPoolExecutor(processes, context, _settle)
    try:
        for future in as_completed([pool.submit(work, config) for config in configs]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _settle() -> None:
    """Use one thread, and end when the process that started this one does, also if it is killed."""
    torch.set_num_threads(1)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
