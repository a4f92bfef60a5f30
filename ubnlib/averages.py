"""How a UBN step moves the running averages: equations 2 and 3, for all layers of a model at once.

The averages move when step 1 is over. So a step that fails moves none of them, and a few operations
on all channels of the model together take the place of a dozen small ones in every layer.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ubnlib.statistics import Moments, Statistics, moving_average

if TYPE_CHECKING:
    from ubnlib.layers import UnsupervisedBatchNorm


@torch.no_grad()
def move_averages(layers: Iterable["UnsupervisedBatchNorm"]) -> None:
    """Move the averages by what the layers' calls of this step collected, in place.

    Where a layer has `skip_nonfinite`, a batch with a statistic that is not finite in any layer
    of the same settings moves none of them.
    """
    calls = [
        (turn, layer, call.union)
        for layer in layers
        if layer.running_mean is not None
        for turn, call in enumerate(layer._calls)
    ]
    alike = defaultdict(list)
    for turn, layer, union in calls:
        cumulative = id(layer) if layer.momentum is None else None
        buffer = layer.running_mean
        switches = layer.momentum, cumulative, layer.running_stat, layer.skip_nonfinite
        alike[turn, *switches, buffer.dtype, buffer.device].append((layer, union))
    for turn in sorted({key[0] for key in alike}):  # a shared layer's calls one after the other
        for key, members in alike.items():
            if key[0] == turn:
                move_together(*zip(*members, strict=True))


@torch.no_grad()
def move_together(layers: Sequence["UnsupervisedBatchNorm"], unions: Sequence[Statistics]) -> None:
    """Move the averages of layers with the same settings by one batch each."""
    running = Moments(
        torch.cat([layer.running_mean for layer in layers]),
        torch.cat([layer.running_var for layer in layers]),
    )
    batch = Moments(*map(torch.cat, zip(*(union.unbiased for union in unions), strict=True)))
    moved, taken = average_after(layers[0], running, batch)
    channels = [layer.num_features for layer in layers]
    for layer, mean, var in zip(
        layers, moved.mean.split(channels), moved.var.split(channels), strict=True
    ):
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)
        layer.num_batches_tracked.add_(taken)


def average_after(
    layer: "UnsupervisedBatchNorm", running: Moments, batch: Moments, earlier: int = 0
) -> tuple[Moments, Tensor | int]:
    """Return where averages are after one batch, differentiably, and whether it was taken.

    Args:
        layer: Whose settings apply.
        running: The averages before.
        batch: Mean and unbiased variance of the batch.
        earlier: How many batches of this step the layer has yet to count.
    """
    momentum = layer.momentum
    if momentum is None:  # cumulative average, as in nn.BatchNorm
        momentum = 1.0 / (layer.num_batches_tracked + (earlier + 1)).to(running.mean.dtype)
    moved = moving_average(running, batch, momentum, layer.running_stat)
    if not layer.skip_nonfinite:
        return moved, 1
    taken = torch.isfinite(batch.mean + batch.var).all()
    kept = zip(moved, running, strict=True)
    return Moments(*(torch.where(taken, new, old) for new, old in kept)), taken
