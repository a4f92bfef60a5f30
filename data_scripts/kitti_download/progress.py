"""One progress bar in bytes for archives that arrive in several threads."""

import threading

from tqdm import tqdm

from kitti_download.plan import Plan


class Progress:
    """A bar over all archives of a plan, with the time left; a context manager."""

    def __init__(self, plan: Plan, *, shown: bool):
        self._lock = threading.Lock()
        self._sizes = dict(plan.sizes)
        self._jobs = len(plan.todo.jobs)
        self._bar = tqdm(
            total=sum(plan.sizes.values()),
            initial=sum(plan.arrived.values()),
            desc="downloading",
            unit="B",
            unit_scale=True,
            disable=not shown,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._bar.close()  # later calls from a thread that is slow to stop do nothing

    def advance(self, count: int) -> None:
        """Count bytes that arrived; negative if some were thrown away."""
        with self._lock:
            self._bar.update(count)

    def correct(self, name: str, size: int) -> None:
        """Replace the size that was planned for an archive by the true one."""
        with self._lock:
            self._bar.total += size - self._sizes[name]
            self._sizes[name] = size

    def count(self, ended: int) -> None:
        """Show how many archives have ended, well or not."""
        with self._lock:
            self._bar.set_postfix_str(f"{ended} of {self._jobs} archives")
