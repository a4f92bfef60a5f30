"""Work in threads that never keep an interrupted program from ending."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_SECONDS_TO_STOP = 3.0


def run_in_threads(
    tasks: Sequence[Task],
    work: Callable[[Task], Result],
    note: Callable[[Task, Result | BaseException], None],
    count: int,
    stop: threading.Event,
) -> None:
    """Do tasks in threads, in order.

    The threads are daemons, unlike those of concurrent.futures: one that waits for a silent
    server must not keep an interrupted program from ending.

    Args:
        tasks: What to do.
        work: Does one task, in one of the threads.
        note: Called in this thread for every task that ended, with its result or with what it
            raised. What `note` raises ends all work, and so does KeyboardInterrupt.
        count: Number of threads.
        stop: Set at the end; `work` should look at it now and then. Threads that do not stop
            within three seconds are left behind.
    """
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    ended: queue.SimpleQueue = queue.SimpleQueue()

    def serve() -> None:
        while not stop.is_set():
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((task, work(task)))
            except BaseException as error:
                ended.put((task, error))

    for task in tasks:
        waiting.put(task)
    threads = [threading.Thread(target=serve, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        for _ in tasks:
            note(*ended.get())
    finally:
        stop.set()
        for thread in threads:
            thread.join(_SECONDS_TO_STOP / count)
