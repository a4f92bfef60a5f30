"""Batch statistics and normalization as pure functions: equations 1 to 4 of the paper.

Statistics are per channel, over the batch and all spatial positions. They are computed in float32
at least and never as E[x^2] - E[x]^2, which loses all digits where the mean is large.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ubnlib.kernels import BatchMoments, batch_moments, normalize_by_constants

RunningStat = Literal["var", "std"]


class Moments(NamedTuple):
    """A mean and a variance per channel, each [C]."""

    mean: Tensor
    var: Tensor

    def detach(self) -> "Moments":
        """Return the same values as constants."""
        return Moments(self.mean.detach(), self.var.detach())


class Statistics(NamedTuple):
    """Mean and biased variance per channel, each [C], of `count` values a channel.

    The count is a tensor where it was summed over the ranks of a process group.
    """

    mean: Tensor
    var: Tensor
    count: int | Tensor

    @property
    def moments(self) -> Moments:
        """The mean and the variance without the count."""
        return Moments(self.mean, self.var)

    def empty(self) -> "Statistics":
        """Return the statistics of no values at all, for as many channels."""
        zeros = torch.zeros_like(self.mean)
        return Statistics(zeros, zeros, 0)

    @property
    def unbiased(self) -> Moments:
        """The mean and the unbiased variance, which running averages take."""
        return Moments(self.mean, self.var * (self.count / (self.count - 1)))

    def detach(self) -> "Statistics":
        """Return the same values as constants."""
        return Statistics(self.mean.detach(), self.var.detach(), self.count)


def batch_statistics(x: Tensor, differentiable: bool = True) -> Statistics:
    """Return mu(x) and sigma^2(x) of equation 1.

    Args:
        x: [N, C, ...]. No rows at all have zero mean and variance and count nothing.
        differentiable: Whether the statistics carry x's gradient, where x has one.

    Example:
        >>> import torch
        >>> mean, var, count = batch_statistics(torch.tensor([[1.0, 10.0], [3.0, 10.0]]))
        >>> mean.tolist(), var.tolist(), count
        ([2.0, 10.0], [1.0, 0.0], 2)
    """
    count = x.numel() // x.size(1)
    if count == 0:  # nothing, but with a gradient, as other ranks wait for this one's
        dtype = torch.promote_types(x.dtype, torch.float32)
        nothing = (x if differentiable else x.detach()).sum([0, *range(2, x.dim())], dtype=dtype)
        return Statistics(nothing, nothing, 0)
    if differentiable and x.requires_grad and torch.is_grad_enabled():
        mean, var = BatchMoments.apply(x)
    else:
        mean, var = batch_moments(x)
    return Statistics(mean, var, count)


def merge(a: Statistics, b: Statistics, weight: float | None = None) -> Statistics:
    """Return the statistics of the union of two batches (Chan, Golub and LeVeque 1983).

    Args:
        a: Of one batch.
        b: Of the other.
        weight: Of b in the union, from 0 to 1; None weighs both by their counts.

    Example:
        >>> import torch
        >>> one = batch_statistics(torch.tensor([[1.0], [3.0]]))
        >>> two = batch_statistics(torch.tensor([[5.0], [7.0]]))
        >>> merge(one, two)
        Statistics(mean=tensor([4.]), var=tensor([5.]), count=4)
    """
    count = a.count + b.count
    share = b.count / count if weight is None else _share_of_present(a.count, b.count, weight)
    mean, within = torch.lerp(a.mean, b.mean, share), torch.lerp(a.var, b.var, share)
    shift = b.mean - a.mean
    return Statistics(mean, within + share * (1 - share) * shift**2, count)


def _share_of_present(a: int | Tensor, b: int | Tensor, weight: float) -> float | Tensor:
    """Return b's weight, which goes to the other batch where one has no rows."""
    if isinstance(b, int):
        return 0.0 if b == 0 else 1.0 if a == 0 else weight
    share = torch.full_like(b, weight)
    return torch.where(a == 0, torch.ones_like(b), torch.where(b == 0, torch.zeros_like(b), share))


def remove(union: Statistics, part: Statistics) -> Statistics:
    """Return the statistics of what is left of `union` without `part`: the inverse of `merge`.

    Digits are lost where `part` is almost all of `union`.

    Raises:
        ValueError: `part` leaves nothing.
    """
    count = union.count - part.count
    if isinstance(count, int) and count <= 0:
        raise ValueError(
            f"Removing {part.count} values from {union.count} leaves none: the collected batch "
            "must hold unlabeled rows beside the labeled ones."
        )
    share = part.count / union.count
    mean = (union.mean - share * part.mean) / (1 - share)
    spread = union.var - share * part.var - share * (1 - share) * (part.mean - mean) ** 2
    return Statistics(mean, (spread / (1 - share)).clamp_min(0), count)


def carry_labeled_gradient(union: Statistics, labeled: Statistics) -> Statistics:
    """Return the values of `union` with the gradient of the labeled rows' share in them.

    The unlabeled rows' share stays constant. The second moment is taken about the union's mean:
    its derivative with respect to that mean is zero, so nothing else enters (in the first
    derivative; the second one needs `merge` with the unlabeled rows' statistics).
    """
    share = labeled.count / union.count
    center = union.mean.detach()
    second = labeled.var + (labeled.mean - center) ** 2
    mean = union.mean + share * (labeled.mean - labeled.mean.detach())
    var = union.var + share * (second - second.detach())
    return Statistics(mean, var, union.count)


def moving_average(
    running: Moments,
    batch: Moments,
    momentum: float | Tensor,
    running_stat: RunningStat = "var",
) -> Moments:
    """Return the moving averages after one batch: equations 2 and 3, with momentum = 1 - lambda.

    With `running_stat="std"` it is the standard deviation that is averaged, as equation 3 has it;
    the square of it is returned, so that the result is a variance in both cases.

    Args:
        running: The averages before.
        batch: Mean and, as torch does it, unbiased variance of the batch.
        momentum: Weight of the batch.
        running_stat: What is averaged.

    Example:
        >>> import torch
        >>> start, batch = torch.zeros(1), torch.tensor([[1.0], [3.0]])
        >>> moving_average(Moments(start, start + 1), batch_statistics(batch).unbiased, 0.5)
        Moments(mean=tensor([1.]), var=tensor([1.5000]))
    """
    mean = torch.lerp(running.mean, batch.mean.to(running.mean.dtype), momentum)
    var = batch.var.to(running.var.dtype)
    if running_stat == "var":
        return Moments(mean, torch.lerp(running.var, var, momentum))
    tiny = torch.finfo(var.dtype).tiny  # the root has no finite slope at zero
    std = torch.lerp(running.var.sqrt(), var.clamp_min(tiny).sqrt(), momentum)
    return Moments(mean, std**2)


def normalize(
    x: Tensor, reference: Moments, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalize x [N, C, ...] by given moments: equation 4, differentiable in the moments too."""
    mean, var = reference
    if not (mean.requires_grad or var.requires_grad):
        return normalize_by_constants(x, mean, var, weight, bias, eps)
    scale = torch.rsqrt(var + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [1, -1] + [1] * (x.dim() - 2)
    return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)
