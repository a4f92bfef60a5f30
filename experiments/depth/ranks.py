"""The processes that train one model together: those that torchrun starts, or this one alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a model whose gradients are averaged over the ranks."""
        if self.world == 1:
            return model
        # UBN keeps the averages alike on all ranks by itself.
        return DistributedDataParallel(model, broadcast_buffers=False)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, without gradient."""
        value = value.detach().clone()
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return a tensor of each rank, all of one shape, to all ranks."""
        if self.world == 1:
            return [value]
        here = value.to(self.device)
        every = [torch.empty_like(here) for _ in range(self.world)]
        dist.all_gather(every, here)
        return [one.cpu() for one in every]

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.world > 1:
            dist.barrier()


def alone() -> Ranks:
    """Return this process as the only one, on a GPU where there is one."""
    return Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started, each with a GPU of its own or on the CPU.

    Outside torchrun there is one process, this one.

    Example:
        >>> with joined() as ranks:
        ...     print(ranks.rank, "of", ranks.world)
        0 of 1
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield alone()
        return
    local = int(os.environ["LOCAL_RANK"])
    gpus = torch.cuda.device_count()
    if 0 < gpus <= local:
        raise RuntimeError(
            f"torchrun started process {local} on a machine with {gpus} GPUs: start one a GPU, "
            f"--nproc-per-node={gpus}."
        )
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpus else "gloo")
    try:
        yield Ranks(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()
