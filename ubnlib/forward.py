"""The two steps of Unsupervised Batch Normalization (the paper's Figure 1), by hand and in one."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ubnlib.batchnorm import UnsupervisedBatchNorm, move_averages
from ubnlib.distributed import group_of
from ubnlib.lockstep import Lockstep, in_same_setting

# Numbers in both batches below which taking turns costs more than a second pass: measured with
# the spiral's net, where a step of two passes takes half as long as a step side by side.
SMALL = 20_000


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
def _step(
    model: nn.Module,
    layers: list[UnsupervisedBatchNorm],
    step: Literal["collect", "use"] | Lockstep,
    rows: tuple[int, int] | None = None,
) -> Iterator[None]:
    """Put training layers into a step and take them out again, whatever happens.

    All but step 2 forget the last step's statistics, and their own too if they fail.
    """
    if any(layer._step is not None for layer in layers):
        raise RuntimeError("A UBN step is already under way in this model: steps do not nest.")
    if not any(layer.training for layer in layers):
        raise RuntimeError(
            "Every UBN layer is in eval mode, where no statistics are collected or used: call "
            "model.train() first."
        )
    group = None if step == "use" else group_of(model)
    try:
        for layer in layers:
            if step != "use":
                layer.begin_step(group, rows)
            layer.take_part(step)
        yield
    except BaseException:
        for layer in layers if step != "use" else ():
            layer.forget_step()
        raise
    finally:
        for layer in layers:
            layer.take_part(None)


def _weights_of(model: nn.Module) -> str:
    """Return what tells a model's weights from those of another training step.

    Changes in place count up a parameter's version; fused optimizers do not, but change its values.
    """
    parameters = [p for p in model.parameters() if p.requires_grad and not p.is_inference()]
    probes = [p.detach().flatten()[0].item() for p in parameters if p.numel() and not p.is_meta]
    return f"{sum(p._version for p in parameters)} {probes}"


def _records_gradient(layers: list[UnsupervisedBatchNorm]) -> bool:
    """Whether the unlabeled rows need a graph."""
    return torch.is_grad_enabled() and any(layer.stats_grad == "all" for layer in layers)


@contextmanager
def collecting(model: nn.Module, *, rows: tuple[int, int] | None = None) -> Iterator[None]:
    """Step 1: the forward pass inside collects the statistics of the combined batch.

    The moving averages move here, and only here, when it ends. Gradients are off unless a layer has
    `stats_grad="all"`. An exception inside leaves nothing collected.

    Args:
        model: A model with UBN layers, in training mode.
        rows: How many labeled and then how many unlabeled rows the combined batch has. Only
            `unlabeled_weight` needs to know.

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
    with _collecting(model, layers, rows):
        yield
    layers[0]._weights = _weights_of(model)


@contextmanager
def _collecting(
    model: nn.Module, layers: list[UnsupervisedBatchNorm], rows: tuple[int, int] | None
) -> Iterator[None]:
    """Step 1, without a note of the weights."""
    with _step(model, layers, "collect", rows):
        # Autocast would keep the weights that it casts here, without gradient, for step 2.
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            with torch.set_grad_enabled(_records_gradient(layers)):
                yield
        finally:
            torch.set_autocast_cache_enabled(cached)
        move_averages(layers)


@contextmanager
def using(model: nn.Module, *, allow_stale: bool = False) -> Iterator[None]:
    """Step 2: the forward pass inside normalizes by what `collecting` gathered (equation 4).

    Nothing moves here. The layers must be reached as often, and in the same order, as in step 1.
    With `stats_grad="none"`, step 2 may be entered again and again for micro-batches of the
    labeled rows: their gradients add up to exactly that of all rows together. The other readings
    need all labeled rows at once.

    Args:
        model: The model that collected.
        allow_stale: Accept statistics from before the weights last changed.

    Raises:
        TypeError: The model is a DataParallel.
        ValueError: The model has no UBN layer.
        RuntimeError: Nothing was collected, the weights have changed since, a step is under way,
            every UBN layer is in eval mode, a layer is reached in one step and not in the other,
            or step 2 is entered again where the reading does not allow it.

    Example:
        >>> import torch
        >>> from ubnlib import UnsupervisedBatchNorm1d, collecting, using
        >>> model = torch.nn.Sequential(UnsupervisedBatchNorm1d(4, stats_grad="none"))
        >>> labeled, unlabeled = torch.randn(6, 4), torch.randn(20, 4)
        >>> with collecting(model):
        ...     _ = model(torch.cat([labeled, unlabeled]))
        >>> for micro_batch in labeled.split(2):
        ...     with using(model):
        ...         model(micro_batch).square().sum().backward()
    """
    layers = ubn_layers(model)
    if layers[0]._weights is None:
        raise RuntimeError(
            "No statistics were collected: run the combined batch inside collecting(model) first."
        )
    if not allow_stale and layers[0]._weights != _weights_of(model):
        raise RuntimeError(
            "The model's weights have changed since its statistics were collected: collect "
            "again, or say using(model, allow_stale=True)."
        )
    again = {layer.stats_grad for layer in layers if any(call.labeled for call in layer._calls)}
    if again - {"none"}:
        raise RuntimeError(
            f"Step 2 is entered again with stats_grad={min(again - {'none'})!r}, whose gradient "
            'needs all labeled rows at once: give them together, or use stats_grad="none".'
        )
    with _using(model, layers):
        yield


@contextmanager
def _using(model: nn.Module, layers: list[UnsupervisedBatchNorm]) -> Iterator[None]:
    """Step 2, of the step that was just collected."""
    with _step(model, layers, "use"):
        yield
        missed = [layer for layer in layers if layer._used != len(layer._calls)]
        if missed:
            raise RuntimeError(
                f"{len(missed)} of {len(layers)} UBN layers were reached in step 1 and not as "
                "often in step 2: both steps must take the same path through the model."
            )


def ubn_forward(model: nn.Module, labeled: Tensor, unlabeled: Tensor | None) -> Any:
    """Run both steps and return the model's output for the labeled rows, ready for backward.

    The labeled and the unlabeled rows pass through the model once each, side by side, and meet at
    every UBN layer (see `ubnlib.lockstep`); the result is that of the two steps by hand. The model
    sees two calls, one for each half, that take turns, and so do its hooks; a model must not keep
    activations on itself from one layer for a later one (run such a model by hand). The two steps
    run one after the other where this cannot be, with `source="running"` or in a compiled model,
    and where it would not pay, with little data (`ubnlib.forward.SMALL`); then layers that draw at
    random, such as dropout, draw anew in each step.

    Under DistributedDataParallel, give the wrapped model: statistics are then over the rows of
    all ranks, of which each may have any number, also none.

    Args:
        model: A model with UBN layers, in training mode.
        labeled: [N, ...], the rows that the loss is computed on.
        unlabeled: [M, ...], rows of the same shape, dtype and device. None means plain batch
            normalization, on all ranks, through `model(labeled)`; so do no rows at all where
            there is but one rank.

    Returns:
        `model(labeled)` normalized by the statistics of both.

    Raises:
        ValueError: The two batches do not go together, or the model has no UBN layer.
        TypeError: The model is a DataParallel.
        RuntimeError: A step is under way, every UBN layer is in eval mode, or the two halves
            reach different layers.

    Example:
        >>> import torch
        >>> from ubnlib import convert_ubn, ubn_forward
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4))
        >>> model = convert_ubn(net)
        >>> loss = ubn_forward(model, torch.randn(5, 2), torch.randn(20, 2)).square().mean()
        >>> loss.backward()
    """
    if unlabeled is None:
        return model(labeled)
    for what in ("shape", "dtype", "device"):
        ours, theirs = getattr(labeled, what), getattr(unlabeled, what)
        if what == "shape":
            ours, theirs = tuple(ours[1:]), tuple(theirs[1:])
        if ours != theirs:
            raise ValueError(
                f"The labeled rows have {what} {ours} and the unlabeled ones {theirs}: both pass "
                "through the same model and must agree."
            )
    layers = ubn_layers(model)
    alone = group_of(model) is None and all(layer.own_group() is None for layer in layers)
    if len(unlabeled) == 0 and alone:
        return model(labeled)
    small = alone and labeled.numel() + unlabeled.numel() < SMALL  # ranks must agree on the way
    running = any(layer.source == "running" for layer in layers)
    if small or running or not _may_take_turns(model):
        return two_passes(model, labeled, unlabeled)
    return side_by_side(model, labeled, unlabeled)


def two_passes(model: nn.Module, labeled: Tensor, unlabeled: Tensor) -> Any:
    """Run step 1 and then step 2, as the paper has it: `ubn_forward` without its shortcut."""
    layers = ubn_layers(model)
    weighted = any(layer.unlabeled_weight is not None for layer in layers)
    with _collecting(model, layers, (len(labeled), len(unlabeled)) if weighted else None):
        model(torch.cat([labeled, unlabeled]))
    with _using(model, layers):
        return model(labeled)


def side_by_side(model: nn.Module, labeled: Tensor, unlabeled: Tensor) -> Any:
    """Run both steps at once: `ubn_forward` where it takes its shortcut."""
    layers, lockstep = ubn_layers(model), Lockstep()
    with _step(model, layers, lockstep):
        # The wrapper prepares for backward, which only the labeled half needs.
        bare = model.module if isinstance(model, DistributedDataParallel) else model
        half = in_same_setting(lambda: bare(unlabeled), unlabeled.device, _records_gradient(layers))
        with lockstep.running(half) if len(unlabeled) else nullcontext():  # none on this rank
            output = model(labeled)
        move_averages(layers)
        return output


def _may_take_turns(model: nn.Module) -> bool:
    """Whether two halves can be in a model at once.

    They cannot in a compiled graph, which does not stop at a layer, nor in a part of the model that
    is wrapped for distributed training and would call its group for each half.
    """
    return not torch.compiler.is_compiling() and not any(
        hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        or (isinstance(module, DistributedDataParallel) and module is not model)
        for module in model.modules()
    )
