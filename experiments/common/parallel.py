"""Many runs, several at a time: the records of a list of configurations."""

import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
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

    Each record is written when its run ends, so that a stopped sweep goes on where it was. A run
    that fails ends the sweep with its error, after the runs that are under way.

    Args:
        configs: What to run; equal ones run once.
        run: Makes a record; with several processes, a function that a module has by its name.
        folder: Where records are kept.
        processes: How many runs at a time, each in a process with one thread; 1 runs them here.
        progress: Label of a progress bar; None shows none.
    """
    unique = {config.key: config for config in configs}
    work = functools.partial(obtain, run=run, folder=folder)
    bar = tqdm(total=len(unique), desc=progress, leave=False, disable=progress is None)
    records = {}
    with bar:
        if processes == 1:
            for key, config in unique.items():
                records[key] = work(config)
                bar.update()
        else:
            with _pool(processes) as pool:
                keys = {pool.submit(work, config): key for key, config in unique.items()}
                try:
                    for future in as_completed(keys):
                        records[keys[future]] = future.result()
                        bar.update()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    return [records[config.key] for config in configs]


def _pool(processes: int) -> ProcessPoolExecutor:
    """Return processes that start afresh: a forked one would inherit torch's threads."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_settle)


def _settle() -> None:
    """Use one thread, and end when the process that started this one does, also if it is killed."""
    torch.set_num_threads(1)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
