"""Statistics over the rows of all processes of a group."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from ubnlib.functional import Statistics


def group_of(model: nn.Module) -> ProcessGroup | None:
    """Return the processes that train a model together; None for a model that trains alone.

    The wrapper may itself be compiled, or be a part of the model, or the model a part of it, when
    this is called in the wrapped module's forward pass (as a LightningModule's training step is).
    """
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            return module.process_group
    active = getattr(DistributedDataParallel, "_get_active_ddp_module", lambda: None)()
    if active is not None and any(module is model for module in active.module.modules()):
        return active.process_group
    return None


def pool(parts: tuple[Statistics, ...], group: ProcessGroup | None) -> tuple[Statistics, ...]:
    """Merge each of this rank's statistics with the same ones of all other ranks.

    Ranks count with the number of their values, which may be zero. The gradient goes to all ranks.
    One collective call for all parts, in the same order on all ranks. No group merges nothing.
    """
    if group is None:
        return parts
    mine = torch.stack([torch.cat([p.mean, p.var, p.mean.new_tensor([p.count])]) for p in parts])
    # Every rank fills its own slice and the sum gathers them: on all backends, differentiably.
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    slices = torch.stack([mine if r == rank else torch.zeros_like(mine) for r in range(size)])
    every = _SumOverRanks.apply(slices, group)
    channels = parts[0].mean.numel()
    means, variances, counts = every.split([channels, channels, 1], dim=-1)  # [ranks, parts, ...]
    total = counts.sum(0)
    shares = counts / total.clamp_min(1)
    mean = (shares * means).sum(0)
    var = (shares * (variances + (means - mean) ** 2)).sum(0)
    return tuple(Statistics(*s) for s in zip(mean, var, total.squeeze(-1), strict=True))


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values, group=group)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _SumOverRanks.apply(grad, ctx.group), None
