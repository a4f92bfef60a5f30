"""Nets whose normalization has the statistics of one reference batch, for Figures 3 to 5."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ubnlib.convert import convert_ubn
from ubnlib.forward import collecting, ubn_layers

Model = TypeVar("Model", bound=nn.Module)


def frozen(model: Model, reference: Tensor) -> Model:
    """Return a copy in eval mode whose running statistics are those of a reference batch.

    They are equation 4's: each layer's mean and biased variance over the batch as it passes through
    the model with its normalization layers, and only them, in training mode. So the copy is a plain
    function of each of its inputs: that of `monte_carlo_predictions` with this batch.

    Args:
        model: A model with UBN or batch normalization layers; it is left as it was.
        reference: [M, ...], at least 2 rows.
    """
    plain = copy.deepcopy(model)
    collector = convert_ubn(copy.deepcopy(model)).eval()
    for layer in ubn_layers(collector):
        layer.train()
    with collecting(collector):
        collector(reference)
    norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm1d)]
    with torch.no_grad():
        for norm, layer in zip(norms, ubn_layers(collector), strict=True):
            ((union, *_),) = layer.last_step
            norm.running_mean.copy_(union.mean)
            norm.running_var.copy_(union.var)
    return plain.eval().requires_grad_(False)


def random_batch(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return `size` rows of points [N, ...] without replacement; all where there are fewer."""
    return points[torch.randperm(len(points), generator=generator)[:size]]
