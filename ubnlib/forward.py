"""The two steps of Unsupervised Batch Normalization (the paper's Figure 1), by hand and in one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize

from ubnlib.batchnorm import UnsupervisedBatchNorm, move_averages
from ubnlib.distributed import group_of
from ubnlib.lockstep import Lockstep, in_same_setting, modes_of_this_thread
from ubnlib.trees import concatenate, rows_of, same_shapes, split, tree_map

SHARDED = {"FullyShardedDataParallel", "FSDPModule"}


def ubn_layers(model: nn.Module) -> list[UnsupervisedBatchNorm]:
    """Return the model's UBN layers, each once, in the order of `model.modules()`.

    Raises:
        TypeError: The model is a DataParallel, whose replicas cannot share statistics, or sharded.
        ValueError: The model has no UBN layer.
    """
    if any(isinstance(module, nn.DataParallel) for module in model.modules()):
        raise TypeError(
            "nn.DataParallel copies the model at every call, so that step 2 would not see what "
            "step 1 collected: use DistributedDataParallel."
        )
    if any(SHARDED & {kind.__name__ for kind in type(m).__mro__} for m in model.modules()):
        raise TypeError(
            "FSDP gathers the weights for one forward pass at a time, and a UBN step has two: use "
            "DistributedDataParallel."
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
    joint: bool = False,
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
    if not torch.compiler.is_compiling() and (
        torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    ):
        raise RuntimeError(
            "A UBN step has no rule for torch.func's transforms and for forward-mode derivatives: "
            "take gradients by backward() or torch.autograd.grad."
        )
    group = None if step == "use" else group_of(model)
    done, before = False, [layer._calls for layer in layers]
    try:
        for layer in layers:
            if step != "use":
                layer.begin_step(group, rows, joint)
            layer.enter_step(step)
        yield
        done = True
    finally:
        for layer, calls in zip(layers, before, strict=True):
            if step == "use" and not done:  # so that it can be tried again
                vars(layer)["_calls"] = calls
            layer.leave_step(forget=not done and step != "use")


def _weights_of(model: nn.Module) -> str:
    """Return what tells a model's weights from those of another training step."""
    # Changes in place count up a parameter's version; fused optimizers only change its values.
    parameters = [p for p in model.parameters() if p.requires_grad and not p.is_inference()]
    firsts = [p.detach().as_strided((1,), (1,)) for p in parameters if p.numel() and not p.is_meta]
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for first in firsts:
        alike.setdefault((first.device, first.dtype), []).append(first)
    values = [torch.cat(some).tolist() for some in alike.values()]
    return f"{sum(p._version for p in parameters)} {values}"


@contextmanager
def _uncached() -> Iterator[None]:
    """Keep what is computed from weights without gradient from being used where they need one."""
    autocast, parametrized = torch.is_autocast_cache_enabled(), parametrize._cache_enabled
    torch.set_autocast_cache_enabled(False)
    parametrize._cache_enabled = 0
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(autocast)
        parametrize._cache_enabled = parametrized


@contextmanager
def _advice(grad: bool) -> Iterator[None]:
    """Tell a model that asks for gradients in forward where it gets them."""
    try:
        yield
    except RuntimeError as error:
        if not grad and "require" in str(error):
            error.add_note(
                "The unlabeled rows, and all rows in UBN's step 1, pass without gradient: say "
                "ubn_forward(..., record=True) for models that need one in their forward pass."
            )
        raise


@contextmanager
def collecting(model: nn.Module, *, rows: tuple[int, int] | None = None) -> Iterator[None]:
    """Step 1: the forward pass inside collects the statistics of the combined batch.

    The moving averages move here, and only here, when it ends. Gradients are off unless a layer has
    `stats_grad="all"`. An exception inside leaves nothing collected.

    Args:
        model: A model with UBN layers, in training mode.
        rows: (labeled, unlabeled) rows of the combined batch; only `unlabeled_weight` asks for it.
            In every layer's input rows must come first, the labeled ones before.

    Raises:
        RuntimeError: A step is under way, or every UBN layer is in eval mode; see `ubn_layers` too.
    """
    layers = ubn_layers(model)
    with _collecting(model, layers, rows):
        yield
    move_averages(layers)
    layers[0]._weights = _weights_of(model)


@contextmanager
def _collecting(
    model: nn.Module,
    layers: list[UnsupervisedBatchNorm],
    rows: tuple[int, int] | None = None,
    record: bool = False,
    joint: bool = False,
) -> Iterator[None]:
    """Step 1, without a note of the weights; `record` keeps gradients on, `joint` uses them."""
    grad = record or joint or any(layer.stats_grad == "all" for layer in layers)
    with (
        _step(model, layers, "collect", rows, joint),
        nullcontext() if joint else _uncached(),
        torch.set_grad_enabled(grad and torch.is_grad_enabled()),
    ):
        with _advice(grad):
            yield


@contextmanager
def using(model: nn.Module, *, allow_stale: bool = False) -> Iterator[None]:
    """Step 2: the forward pass inside normalizes by what `collecting` gathered (equation 4).

    Nothing moves here. The layers must be reached as often, and in the same order, as in step 1.
    With `stats_grad="none"`, step 2 may be entered again and again for micro-batches of the labeled
    rows: their gradients add up to that of all together. Other readings need all rows at once.

    Args:
        model: The model that collected.
        allow_stale: Accept statistics from before the weights last changed.

    Raises:
        RuntimeError: Nothing was collected, or with other weights; a step is under way, or every
            layer in eval mode; the path is another one; or step 2 is entered again as it cannot be.
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


def ubn_forward(
    model: nn.Module,
    labeled: Any,
    unlabeled: Any,
    *args: Any,
    interleave: bool = False,
    return_unlabeled: bool | Literal["gradient"] = False,
    record: bool = False,
    call: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Run both steps and return the model's output for the labeled rows, ready for backward.

    By default the two steps run one after the other, as the paper has them, and layers that draw
    at random, such as dropout, draw anew in each. Where the rows of the two batches differ in
    shape, or must be told apart in every layer (`unlabeled_weight`), and with `interleave=True` or
    `return_unlabeled="gradient"` wherever two halves can be in a model at once (not in a compiled
    one, nor with `source="running"`), both pass through the model once each, side by side, and
    meet at every UBN layer: the same equations, less work, and each half draws once.

    Under DistributedDataParallel, give the wrapped model, or call this inside the wrapped module's
    forward: statistics are then over the rows of all ranks, of which each may have any number.

    Args:
        model: A model with UBN layers, in training mode.
        labeled: The batch that the loss is computed on: a tensor [N, ...], or a tree of tensors
            (mappings, tuples, lists, dataclasses) of N rows each. It is the model's first argument
            as it is; what is no tensor with rows in it belongs to both batches. Rows that name
            others by number, or come second behind time, need `interleave=True`.
        unlabeled: The same of M rows; they may differ in shape, such as an image's size. None, or
            no rows where there is one rank, means plain batch normalization (None on all ranks).
        *args: Passed on to the model in each pass, and so not divided by rows.
        interleave: Whether to pass both halves side by side.
        return_unlabeled: Whether to return `(output, output for the unlabeled rows)`: without
            gradient, or with `"gradient"` as one joint pass of batch normalization over all rows
            has it, whatever `stats_grad` says; None where this rank has no unlabeled rows.
        record: Whether gradients are on in step 1 too, for models that look at them in forward
            (`Tensor.register_hook`, `autograd.grad`, `torch.is_grad_enabled`), or keep what they
            compute from weights. Costs memory.
        call: A function in place of the model's own call, such as `lambda batch: model(**batch)`.
        **kwargs: Passed on as `args` are.

    Returns:
        The output for the labeled rows, by the statistics of both; see `return_unlabeled`.

    Raises:
        ValueError: The two batches do not go together, or the model has no UBN layer.
        TypeError: The model is a DataParallel or sharded.
        RuntimeError: A step is under way, every UBN layer is in eval mode, the two halves reach
            different layers, or they must pass side by side and cannot.

    Example:
        >>> import torch
        >>> from ubnlib import convert_ubn, ubn_forward
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4))
        >>> model = convert_ubn(net)
        >>> loss = ubn_forward(model, torch.randn(5, 2), torch.randn(20, 2)).square().mean()
        >>> loss.backward()
    """
    if return_unlabeled not in (False, True, "gradient"):
        raise ValueError(
            f"return_unlabeled is {return_unlabeled!r}: it must be False, True or 'gradient'."
        )
    joint = return_unlabeled == "gradient"
    step = _Forward(model, call or model, args, kwargs, joint, record, bool(return_unlabeled))
    if unlabeled is None:
        both = step.run(labeled), None
    else:
        both = _both(step, labeled, unlabeled, interleave)
    return both if return_unlabeled else both[0]


class _Forward(NamedTuple):
    """A model's forward pass, and how a step goes through it."""

    model: nn.Module
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = MappingProxyType({})
    joint: bool = False  # whether all rows carry gradient
    record: bool = False
    returns: bool = False  # whether the unlabeled rows' output is asked for

    def run(self, batch: Any) -> Any:
        """Pass a batch through."""
        return self.function(batch, *self.args, **self.kwargs)


def _both(step: _Forward, labeled: Any, unlabeled: Any, interleave: bool) -> tuple[Any, Any]:
    """Return the outputs for both batches, in the way that suits them."""
    joinable = same_shapes(labeled, unlabeled)
    _, others = len(rows_of(labeled)), len(rows_of(unlabeled, "unlabeled"))
    layers = ubn_layers(step.model)
    alone = group_of(step.model) is None and all(layer.own_group() is None for layer in layers)
    if others == 0 and alone:
        return step.run(labeled), None
    if step.joint and any(layer.source == "running" for layer in layers):
        raise ValueError(
            'return_unlabeled="gradient" is one joint pass over all rows, which source="running" '
            'does not have: use source="batch".'
        )
    weighted = any(layer.unlabeled_weight is not None for layer in layers)
    if interleave or weighted or step.joint or not joinable:
        obstacle = _obstacle(step, layers)
        if not obstacle:
            return _side_by_side(step, labeled, unlabeled)
        if weighted or not joinable:
            why = "unlabeled_weight" if weighted else "batches whose rows differ in shape"
            raise RuntimeError(
                f"With {why}, both halves must pass through the model side by side, which "
                f"{obstacle} does not allow."
            )
    return _one_after_the_other(step, labeled, unlabeled)


def two_passes(model: nn.Module, labeled: Tensor, unlabeled: Tensor) -> Any:
    """Run step 1 and then step 2 by hand, whatever the layers' options.

    With `unlabeled_weight`, rows must come first in every layer's input, labeled ones before.
    """
    return _one_after_the_other(_Forward(model, model), labeled, unlabeled)[0]


def _one_after_the_other(step: _Forward, labeled: Any, unlabeled: Any) -> tuple[Any, Any]:
    """Run step 1 and then step 2; with gradient for all rows, step 1 is all."""
    layers = ubn_layers(step.model)
    numbers = len(rows_of(labeled)), len(rows_of(unlabeled, "unlabeled"))
    rows = numbers if any(layer.unlabeled_weight is not None for layer in layers) else None
    with _collecting(step.model, layers, rows, step.record, step.joint):
        together = step.run(concatenate(labeled, unlabeled))
    if step.joint:
        output, other = split(together, *numbers)
        move_averages(layers)
        return output, other if numbers[1] else None
    with _using(step.model, layers):
        output = step.run(labeled)
    other = split(together, *numbers)[1] if step.returns and numbers[1] else None
    if other is not None:
        split(output, numbers[0], 0)  # else what was split is no output of rows
    move_averages(layers)  # now that nothing can fail
    return output, _constants(other)


def _constants(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def _side_by_side(step: _Forward, labeled: Any, unlabeled: Any) -> tuple[Any, Any]:
    """Run both steps at once, each half through the model once."""
    model, layers = step.model, ubn_layers(step.model)
    device = rows_of(labeled).device
    lockstep = Lockstep(device, _stores(model))
    grad = step.record or step.joint or any(layer.stats_grad == "all" for layer in layers)
    bare = step
    if step.function is model and isinstance(model, DistributedDataParallel):
        # The wrapper prepares for backward, which only the labeled half needs.
        bare = step._replace(function=model.module)
    with _step(model, layers, lockstep, joint=step.joint), _uncached(), _advice(grad):
        half = in_same_setting(
            lambda: bare.run(unlabeled), device, grad and torch.is_grad_enabled()
        )
        some = len(rows_of(unlabeled, "unlabeled"))  # on this rank
        with lockstep.running(half) if some else nullcontext():
            output = step.run(labeled)
        move_averages(layers)
    other = lockstep.unlabeled_output
    return output, other if step.joint else _constants(other)


def _stores(model: nn.Module) -> list[dict[str, Any]]:
    """Return where modules keep weights, and those of other classes than torch's what they note."""
    stores: list[Any] = []
    for m in model.modules():
        ours = isinstance(m, UnsupervisedBatchNorm | DistributedDataParallel)
        notes = not ours and not type(m).__module__.startswith("torch.nn.modules")
        stores += [m._parameters, m._buffers, vars(m) if notes else {}]
    return [kept for kept in stores if kept and isinstance(kept, dict)]  # ScriptModules have others


def _obstacle(step: _Forward, layers: list[UnsupervisedBatchNorm]) -> str:
    """Name what keeps two halves from being in a model at once; "" if nothing does."""
    if torch.compiler.is_compiling() or any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in step.model.modules()
    ):
        return "a compiled model"
    if any(layer.source == "running" for layer in layers):
        return 'source="running"'
    wrapped = [m for m in step.model.modules() if isinstance(m, DistributedDataParallel)]
    if any(m is not step.function for m in wrapped):
        return "a part that is wrapped in DistributedDataParallel"
    return modes_of_this_thread()
