"""Batch statistics and normalization as pure functions: equations 1 to 4 of the paper.

Statistics are per channel, over the batch and all spatial positions. They are computed in float32
at least and never as E[x^2] - E[x]^2, which loses all digits where the mean is large.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

RunningStat = Literal["var", "std"]


class Moments(NamedTuple):
    """A mean and a variance per channel, each [C]."""

    mean: Tensor
    var: Tensor

    def detach(self) -> "Moments":
        """Return the same values as constants."""
        return Moments(self.mean.detach(), self.var.detach())


class Statistics(NamedTuple):
    """Mean and biased variance per channel, each [C], of `count` values a channel."""

    mean: Tensor
    var: Tensor
    count: int

    @property
    def moments(self) -> Moments:
        """The mean and the variance without the count."""
        return Moments(self.mean, self.var)

    def detach(self) -> "Statistics":
        """Return the same values as constants."""
        return Statistics(self.mean.detach(), self.var.detach(), self.count)


def batch_statistics(x: Tensor) -> Statistics:
    """Return mu(x) and sigma^2(x) of equation 1 for x of shape [N, C, ...], differentiably."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    return Statistics(mean, var, x.numel() // x.size(1))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Return the statistics of the union of two batches (Chan, Golub and LeVeque 1983)."""
    count = a.count + b.count
    share = b.count / count
    shift = b.mean - a.mean
    mean = a.mean + share * shift
    var = (1 - share) * a.var + share * b.var + share * (1 - share) * shift**2
    return Statistics(mean, var, count)


def remove(union: Statistics, part: Statistics) -> Statistics:
    """Return the statistics of what is left of `union` without `part`: the inverse of `merge`.

    Digits are lost where `part` is almost all of `union`.

    Raises:
        ValueError: `part` leaves nothing.
    """
    count = union.count - part.count
    if count <= 0:
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
    its derivative with respect to that mean is zero, so nothing else enters.
    """
    share = labeled.count / union.count
    center = union.mean.detach()
    second = labeled.var + (labeled.mean - center) ** 2
    mean = union.mean + share * (labeled.mean - labeled.mean.detach())
    var = union.var + share * (second - second.detach())
    return Statistics(mean, var, union.count)


def moving_average(
    running: Moments, batch: Statistics, momentum: float, running_stat: RunningStat = "var"
) -> Moments:
    """Return the moving averages after one batch: equations 2 and 3, with momentum = 1 - lambda.

    Like torch, the average takes the unbiased variance. With `running_stat="std"` it is the
    standard deviation that is averaged, as equation 3 has it; the square of it is returned, so
    that the result is a variance in both cases.
    """
    unbiased = batch.var * (batch.count / (batch.count - 1))
    mean = torch.lerp(running.mean, batch.mean.to(running.mean.dtype), momentum)
    unbiased = unbiased.to(running.var.dtype)
    if running_stat == "var":
        return Moments(mean, torch.lerp(running.var, unbiased, momentum))
    tiny = torch.finfo(unbiased.dtype).tiny  # the root has no finite slope at zero
    std = torch.lerp(running.var.sqrt(), unbiased.clamp_min(tiny).sqrt(), momentum)
    return Moments(mean, std**2)


def normalize(
    x: Tensor, reference: Moments, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Normalize x [N, C, ...] by given moments: equation 4, differentiable in the moments too."""
    mean, var = reference
    if not (mean.requires_grad or var.requires_grad):
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
    scale = torch.rsqrt(var + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [1, -1] + [1] * (x.dim() - 2)
    return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)


def normalize_corrected(
    x: Tensor,
    own: Moments,
    reference: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Normalize x [N, C, ...] by `reference` forward and by its own statistics backward.

    The value is equation 4's, written with x's own moments and a constant correction:

        (x - mu_n) / sigma_n = (x - mu_x) / sigma_x * r + d,
        r = sigma_x / sigma_n,  d = (mu_x - mu_n) / sigma_n,

    with r and d held constant in the backward pass, as Batch Renormalization (Ioffe 2017,
    arXiv:1702.03275) does with moving averages. The gradient is that of batch normalization, and
    one fused training-mode call computes it.
    """
    own, reference = own.detach(), reference.detach()
    sigma = torch.sqrt(reference.var + eps)
    r = torch.sqrt(own.var + eps) / sigma
    d = (own.mean - reference.mean) / sigma
    if weight is not None:
        r, d = r * weight, d * weight
    if bias is not None:
        d = d + bias
    return F.batch_norm(x, None, None, r, d, training=True, momentum=0.0, eps=eps)
