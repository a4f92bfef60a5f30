"""What a UBN layer does with a batch in each step, and what the steps leave for one another."""

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ubnlib.averages import average_after
from ubnlib.distributed import pool
from ubnlib.kernels import NormalizeLabeled
from ubnlib.statistics import (
    Moments,
    Statistics,
    batch_statistics,
    carry_labeled_gradient,
    merge,
    normalize,
    remove,
)

if TYPE_CHECKING:
    from ubnlib.layers import UnsupervisedBatchNorm


class Call(NamedTuple):
    """The statistics that one call of a layer saw in a UBN step, over all ranks.

    The labeled ones carry gradient, the others only with `stats_grad="all"`. In two steps by hand,
    `labeled` and `unlabeled` are None until step 2.
    """

    union: Statistics
    labeled: Statistics | None
    unlabeled: Statistics | None
    reference: Moments  # what normalizes the labeled rows
    own_mean: Tensor | None = None  # of this rank's labeled rows, to know them again

    def complete(self) -> "Call":
        """Return the call with the unlabeled rows' share, where step 1 saw the union only."""
        if self.labeled is None or self.unlabeled is not None:
            return self
        part = self.labeled if self.union.mean.requires_grad else self.labeled.detach()
        if isinstance(part.count, int) and part.count >= self.union.count:
            return self  # nothing was unlabeled
        return self._replace(unlabeled=remove(self.union, part))


def collect(layer: "UnsupervisedBatchNorm", x: Tensor) -> Tensor:
    """Step 1: gather the statistics of the combined batch."""
    if layer._rows is None:
        if layer.unlabeled_weight is not None:
            raise ValueError(
                f"unlabeled_weight={layer.unlabeled_weight} needs to know which rows are "
                "labeled: say collecting(model, rows=(labeled, unlabeled)) with their numbers."
            )
        (union,), unlabeled = pool((batch_statistics(x),), layer._group), None
    else:
        n, m = layer._rows
        split = len(x) * n // max(n + m, 1)
        if split * (n + m) != len(x) * n:
            raise RuntimeError(
                f"This layer gets {len(x)} rows for the {n} labeled and {m} unlabeled ones of the "
                "combined batch, which cannot be told apart in it."
            )
        parts = batch_statistics(x[:split]), batch_statistics(x[split:])
        labeled, unlabeled = pool(parts, layer._group)
        union = merge(labeled, unlabeled, layer.unlabeled_weight)
    _open_call(layer, union, unlabeled)
    return normalize(x, union.moments, layer.weight, layer.bias, layer.eps)


def use(layer: "UnsupervisedBatchNorm", x: Tensor) -> Tensor:
    """Step 2: normalize the labeled rows by what step 1 collected (equation 4)."""
    if layer._used >= len(layer._calls):
        raise RuntimeError(
            f"This layer is called {layer._used + 1} times in step 2 but was called "
            f"{len(layer._calls)} times in step 1: both steps must take the same path through "
            "the model."
        )
    own = batch_statistics(x, differentiable=layer.stats_grad == "labeled")
    (labeled,) = pool((own,), layer._group)
    layer._used += 1
    return _normalize_labeled(layer, x, own, labeled, layer._used - 1, affine_of(layer))


def advance(layer: "UnsupervisedBatchNorm", x: Tensor) -> Tensor:
    """Both steps at once, for either half of the rows (see `ubnlib.lockstep`)."""
    lockstep, affine = layer._step, affine_of(layer)
    unlabeled_half = lockstep.in_unlabeled_half()
    differentiable = ("all",) if unlabeled_half else ("labeled", "all")
    own = batch_statistics(x, differentiable=layer.stats_grad in differentiable)

    @torch.enable_grad()  # in whichever thread comes second
    def combine(labeled: Statistics, unlabeled: Statistics) -> int:
        labeled, unlabeled = pool((labeled, unlabeled), layer._group)
        constant = labeled.detach() if layer.stats_grad == "labeled" else labeled
        _open_call(layer, merge(constant, unlabeled, layer.unlabeled_weight), unlabeled, labeled)
        return len(layer._calls) - 1

    index = lockstep.meet(layer, own, combine)
    call = layer._calls[index]
    if unlabeled_half:
        return normalize(x, call.union.moments, *affine, layer.eps)
    layer._used += 1
    return _normalize_labeled(layer, x, own, call.labeled, index, affine)


def recompute(layer: "UnsupervisedBatchNorm", x: Tensor) -> Tensor:
    """Activation checkpointing's second forward: the same values again, and nothing moved."""
    own = batch_statistics(x, differentiable=layer.stats_grad == "labeled")
    mean, var, _ = own.detach()
    slack = 1e-4 * var.sqrt() + 1e-5 * mean.abs()
    for index, call in enumerate(layer._calls):
        if call.own_mean is None or ((call.own_mean - mean).abs() > slack).any():
            continue
        if layer.stats_grad == "all":
            raise RuntimeError(
                'Activation checkpointing does not go with stats_grad="all", whose unlabeled '
                "rows have a backward pass of their own."
            )
        labeled = call.labeled.detach()
        if layer.stats_grad == "labeled":
            (labeled,) = pool((own,), layer._group)
        return _normalize_labeled(layer, x, own, labeled, index, affine_of(layer))
    if layer._plain or not layer._calls:
        return normalize_by_itself(layer, x)
    raise RuntimeError(
        "Activation checkpointing computes rows again that are not those of the last UBN step: "
        "call backward before the next step."
    )


def normalize_by_itself(layer: "UnsupervisedBatchNorm", x: Tensor) -> Tensor:
    """Equation 1, and nothing moved."""
    mean = var = None
    if layer.running_mean is not None and layer.running_stat == "var":
        # Checkpointing compares with the first forward, in which autograd saw the averages.
        mean, var = layer.running_mean.clone(), layer.running_var.clone()
    return F.batch_norm(x, mean, var, layer.weight, layer.bias, True, 0.0, layer.eps)


def _open_call(
    layer: "UnsupervisedBatchNorm",
    union: Statistics,
    unlabeled: Statistics | None,
    labeled: Statistics | None = None,
) -> None:
    """Note what the labeled rows and the moving averages will need."""
    if isinstance(union.count, int) and union.count < 2:
        raise ValueError(
            f"The combined batch has {union.count} value per channel: statistics need at least 2; "
            "give more rows."
        )
    reference = union.moments
    if layer.source == "running":
        calls = layer._calls
        before = Moments(layer.running_mean, layer.running_var)
        before = calls[-1].reference if calls else before
        reference, _ = average_after(layer, before, union.unbiased, earlier=len(calls))
    layer._calls += (Call(union, labeled, unlabeled, reference),)


def affine_of(layer: "UnsupervisedBatchNorm") -> tuple[Tensor | None, Tensor | None]:
    """Return gamma and beta as they are now.

    A hook, such as weight normalization's, may make them anew for each half of the rows.
    """
    return layer.weight, layer.bias


def _normalize_labeled(
    layer: "UnsupervisedBatchNorm",
    x: Tensor,
    own: Statistics,
    labeled: Statistics,
    index: int,
    affine: tuple[Tensor | None, Tensor | None],
) -> Tensor:
    """Normalize labeled rows by a call's reference, with the gradient that `stats_grad` says."""
    call = layer._calls[index]
    reference = call.reference
    if layer.stats_grad == "labeled":
        if call.unlabeled is None:
            union = carry_labeled_gradient(call.union, labeled)
        else:
            union = merge(labeled, call.unlabeled, layer.unlabeled_weight)
        reference = union.moments
    if layer.stats_grad in ("labeled", "all"):
        out = normalize(x, reference, *affine, layer.eps)
    else:
        corrected = layer.stats_grad == "corrected"
        if corrected and isinstance(labeled.count, int) and labeled.count < 2:
            raise ValueError(
                'stats_grad="corrected" needs at least 2 labeled values per channel, as batch '
                f"normalization does, and got {labeled.count}: give more labeled rows or use "
                '"none" or "labeled".'
            )
        out, mean, var = NormalizeLabeled.apply(
            x, *affine, *labeled, *reference, layer.eps, corrected, layer._group
        )
        labeled = Statistics(mean, var, labeled.count)
    call = call._replace(labeled=labeled, own_mean=own.mean.detach())
    layer._calls = (*layer._calls[:index], call, *layer._calls[index + 1 :])
    return out
