"""The two steps of Unsupervised Batch Normalization (the paper's Figure 1), by hand and in one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ubnlib.layers import UnsupervisedBatchNorm


def ubn_layers(model: nn.Module) -> list[UnsupervisedBatchNorm]:
    """Return the model's UBN layers, each once, in the order of `model.modules()`.

    Raises:
        TypeError: The model is a DataParallel, whose replicas cannot share statistics.
        ValueError: The model has no UBN layer.
    """
    if isinstance(model, nn.DataParallel):
        raise TypeError(
            "nn.DataParallel copies the model at every call, so that step 2 would not see what "
            "step 1 collected: use DistributedDataParallel."
        )
    layers = [module for module in model.modules() if isinstance(module, UnsupervisedBatchNorm)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no UBN layer: convert it with convert_ubn(model) first "
            "(convert_sync_batchnorm replaces UBN layers by plain ones)."
        )
    return layers


@contextmanager
def _step(layers: list[UnsupervisedBatchNorm], name: str) -> Iterator[None]:
    """Put training layers into a step and take them out again, whatever happens."""
    if any(layer._step is not None for layer in layers):
        raise RuntimeError("A UBN step is already under way in this model: steps do not nest.")
    if not any(layer.training for layer in layers):
        raise RuntimeError(
            "Every UBN layer is in eval mode, where no statistics are collected or used: call "
            "model.train() first."
        )
    try:
        for layer in layers:
            layer._step = name
            layer._labeled = ()
        yield
    finally:
        for layer in layers:
            layer._step = None


@contextmanager
def collecting(model: nn.Module) -> Iterator[None]:
    """Step 1: forward passes inside collect the statistics of the combined batch.

    The moving averages move here, and only here. Gradients are off unless a layer has
    `stats_grad="all"`. An exception inside leaves nothing collected.

    Raises:
        TypeError: The model is a DataParallel.
        ValueError: The model has no UBN layer.
        RuntimeError: A step is under way, or every UBN layer is in eval mode.

    Example:
        >>> import torch
        >>> from ubnlib import UnsupervisedBatchNorm1d, collecting, using
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), UnsupervisedBatchNorm1d(4))
        >>> labeled, unlabeled = torch.randn(5, 2), torch.randn(20, 2)
        >>> with collecting(model):
        ...     _ = model(torch.cat([labeled, unlabeled]))
        >>> with using(model):
        ...     output = model(labeled)
        >>> output.shape
        torch.Size([5, 4])
    """
    layers = ubn_layers(model)
    grad = torch.is_grad_enabled() and any(layer.stats_grad == "all" for layer in layers)
    with _step(layers, "collect"):
        for layer in layers:
            layer._collected = ()
        try:
            with torch.set_grad_enabled(grad):
                yield
        except BaseException:
            for layer in layers:
                layer._collected = ()
            raise


@contextmanager
def using(model: nn.Module) -> Iterator[None]:
    """Step 2: the forward pass inside normalizes by what `collecting` gathered (equation 4).

    Nothing moves here. It may be entered again for further labeled micro-batches of the same
    step. The layers must be reached as often, and in the same order, as in step 1.

    Raises:
        TypeError: The model is a DataParallel.
        ValueError: The model has no UBN layer.
        RuntimeError: Nothing was collected, a step is under way, every UBN layer is in eval mode,
            or a layer is reached in one step and not in the other.
    """
    layers = ubn_layers(model)
    if not any(layer._collected for layer in layers):
        raise RuntimeError(
            "No statistics were collected: run the combined batch inside collecting(model) first."
        )
    with _step(layers, "use"):
        yield
        missed = [layer for layer in layers if len(layer._labeled) != len(layer._collected)]
        if missed:
            raise RuntimeError(
                f"{len(missed)} of {len(layers)} UBN layers were reached in step 1 and not as "
                "often in step 2: both steps must take the same path through the model."
            )


def ubn_forward(model: nn.Module, labeled: Tensor, unlabeled: Tensor | None) -> Any:
    """Run both steps and return the model's output for the labeled rows, ready for backward.

    Layers that draw at random, such as dropout, draw anew in each step.

    Args:
        model: A model with UBN layers, in training mode.
        labeled: [N, ...], the rows that the loss is computed on.
        unlabeled: [M, ...], rows of the same shape, dtype and device. None or no rows at all
            means plain batch normalization, through `model(labeled)`.

    Returns:
        `model(labeled)` normalized by the statistics of both.

    Raises:
        ValueError: The two batches do not go together, or the model has no UBN layer.
        TypeError: The model is a DataParallel.
        RuntimeError: A step is under way, or every UBN layer is in eval mode.

    Example:
        >>> import torch
        >>> from ubnlib import convert_ubn, ubn_forward
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4))
        >>> model = convert_ubn(net)
        >>> loss = ubn_forward(model, torch.randn(5, 2), torch.randn(20, 2)).square().mean()
        >>> loss.backward()
    """
    if unlabeled is None or len(unlabeled) == 0:
        return model(labeled)
    for what in ("shape", "dtype", "device"):
        ours, theirs = getattr(labeled, what), getattr(unlabeled, what)
        if what == "shape":
            ours, theirs = tuple(ours[1:]), tuple(theirs[1:])
        if ours != theirs:
            raise ValueError(
                f"The labeled rows have {what} {ours} and the unlabeled ones {theirs}: both pass "
                "through the model as one batch and must agree."
            )
    with collecting(model):
        model(torch.cat([labeled, unlabeled]))
    with using(model):
        return model(labeled)
