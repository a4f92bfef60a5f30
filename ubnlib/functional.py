"""Equations 1 to 4 of the paper as pure functions, and the fused kernels that they run on.

Statistics are per channel, over the batch and all spatial positions. They are computed in float32
at least and never as E[x^2] - E[x]^2, which loses all digits where the mean is large.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

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
    count: int | Tensor  # a tensor where it was summed over the ranks of a process group

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
    """Return mu(x) and sigma^2(x) of equation 1, for x [N, C, ...].

    No rows have zero mean and variance and count 0; `differentiable` keeps x's gradient, if any.
    """
    count = x.numel() // x.size(1)
    if count == 0:  # nothing, but with a gradient, as other ranks wait for this one's
        dtype = torch.promote_types(x.dtype, torch.float32)
        nothing = (x if differentiable else x.detach()).sum([0, *range(2, x.dim())], dtype=dtype)
        return Statistics(nothing, nothing, 0)
    if differentiable and x.requires_grad and torch.is_grad_enabled():
        return Statistics(*BatchMoments.apply(x), count)
    return Statistics(*batch_moments(x), count)


def merge(a: Statistics, b: Statistics, weight: float | None = None) -> Statistics:
    """Return the statistics of the union of two batches (Chan, Golub and LeVeque 1983).

    `weight` is b's in the union, from 0 to 1; None weighs both by their counts.
    """
    count = a.count + b.count
    some = count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1)
    share = b.count / some if weight is None else _share_of_present(a.count, b.count, weight)
    mean, within = torch.lerp(a.mean, b.mean, share), torch.lerp(a.var, b.var, share)
    return Statistics(mean, within + share * (1 - share) * (b.mean - a.mean) ** 2, count)


def _share_of_present(a: int | Tensor, b: int | Tensor, weight: float) -> float | Tensor:
    """Return b's weight, which goes to the other batch where one has no rows."""
    if isinstance(b, int):
        return 0.0 if b == 0 else 1.0 if a == 0 else weight
    share = torch.full_like(b, weight)
    return torch.where(a == 0, torch.ones_like(b), torch.where(b == 0, torch.zeros_like(b), share))


def remove(union: Statistics, part: Statistics) -> Statistics:
    """Return the statistics of what is left of `union` without `part`: the inverse of `merge`.

    Digits are lost where `part` is almost all of `union`; a ValueError, if nothing is left.
    """
    count = union.count - part.count
    if isinstance(count, int) and count <= 0:
        raise ValueError(
            f"Removing {part.count} values from {union.count} leaves none: the collected batch "
            "must hold unlabeled rows beside the labeled ones."
        )
    share = part.count / union.count
    if not isinstance(count, int):  # of all ranks: where nothing is left, nothing is taken away
        share = share * (count > 0)
    mean = (union.mean - share * part.mean) / (1 - share)
    spread = union.var - share * part.var - share * (1 - share) * (part.mean - mean) ** 2
    return Statistics(mean, (spread / (1 - share)).clamp_min(0), count)


def moving_average(
    running: Moments, batch: Moments, momentum: float | Tensor, running_stat: RunningStat = "var"
) -> Moments:
    """Return the moving averages after one batch: equations 2 and 3, with momentum = 1 - lambda.

    The batch's variance is the unbiased one, as torch does it. With `running_stat="std"` it is the
    standard deviation that is averaged, as equation 3 has it, and its square is returned.
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
        weight, bias = (v if v is None else v.to(mean.dtype) for v in (weight, bias))
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
    scale = torch.rsqrt(var + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return (x * _channels(scale, x) + _channels(shift, x)).to(x.dtype)


def gap(x: Statistics, y: Statistics, union: Statistics, eps: float) -> Tensor:
    """Return how far two statistics lie apart, [C]; means in deviations of `union`, with eps."""
    means = (x.mean - y.mean) ** 2 / (union.var + eps)
    scales = torch.log(x.var + eps) - torch.log(y.var + eps)
    return means + scales**2 / 4


# Kernels: forwards that are one pass over the data each, with their own backwards. Under
# torch.compile, which fuses by itself, and on devices without them, plain operations do.


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance per channel, each [C], in float32 at least, as constants."""
    x = x.detach()
    half = x.dtype in (torch.float16, torch.bfloat16)
    if x.device.type not in ("cpu", "cuda") or torch.compiler.is_compiling():
        var, mean = torch.var_mean(x.float() if half else x, [0, *range(2, x.dim())], correction=0)
        return mean, var
    if half and x.device.type == "cpu":  # the kernel would answer in half precision
        x = x.float()
    channels, positions = x.size(1), x[:1, :1].numel()
    if x.device.type != "cpu" or positions < 256 or not x.is_contiguous():
        return torch.batch_norm_update_stats(x, None, None, 0.0)
    # On the CPU, group normalization's kernel finds the moments of rows faster. It also
    # normalizes, which nobody asked for: a few rows at once keep that small.
    at_once = max(1, 2**18 // (channels * positions))
    parts = [
        torch.native_group_norm(r, None, None, len(r), channels, positions, channels, 0.0)[1:]
        for r in x.split(at_once)
    ]
    means, invstd = (torch.cat(values) for values in zip(*parts, strict=True))
    between, mean = torch.var_mean(means, 0, correction=0)
    return mean, between.add_(invstd.pow_(-2).mean(0))


class BatchMoments(torch.autograd.Function):
    """`batch_moments` with a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of x [N, C, ...]."""
        mean, var = batch_moments(x)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
        """Return the gradient with respect to x."""
        x, mean = ctx.saved_tensors
        return _moments_gradient(x, mean, x.numel() // x.size(1), grad_mean, grad_var)


def _moments_gradient(
    x: Tensor, mean: Tensor, count: int | Tensor, grad_mean: Tensor, grad_var: Tensor
) -> Tensor:
    slope = 2 / count * grad_var
    offset = grad_mean / count - slope * mean
    return (x * _channels(slope, x) + _channels(offset, x)).to(x.dtype)


def _channels(v: Tensor, x: Tensor) -> Tensor:
    """View a value per channel [C] so that it broadcasts over x [N, C, ...]."""
    return v.view([1, -1] + [1] * (x.dim() - 2))


class NormalizeLabeled(torch.autograd.Function):
    """Equation 4 with constant statistics, and x's own moments with their gradient beside it.

    The value is equation 4's. With `corrected`, the gradient is that of this way to write it,

        (x - mu_n) / sigma_n = (x - mu_x) / sigma_x * r + d,
        r = sigma_x / sigma_n,  d = (mu_x - mu_n) / sigma_n,

    with r and d held constant, as Batch Renormalization (Ioffe 2017, arXiv:1702.03275) does with
    moving averages; without, mu_n and sigma_n are constants. One node for both results lets go of
    x when the loss has gone backward, whether or not the moments took part in it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None,
        own_mean: Tensor, own_var: Tensor, count: int | Tensor, mean: Tensor, var: Tensor,
        eps: float, corrected: bool, group: ProcessGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Return the normalized rows, and mean and variance of x."""
        ctx.count, ctx.eps, ctx.corrected, ctx.group = count, eps, corrected, group
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, own_mean, own_var, mean, var)
        return normalize(x, Moments(mean, var), weight, bias, eps), own_mean, own_var

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_mean: Tensor | None, grad_var: Tensor | None
    ) -> tuple:
        """Return the gradients with respect to x, weight and bias."""
        x, weight, own_mean, own_var, mean, var = ctx.saved_tensors
        if ctx.group is not None and torch.is_grad_enabled():
            raise RuntimeError(
                "Statistics over several processes have no second derivative: call backward "
                "without create_graph."
            )
        grad_x = grad_weight = grad_bias = None
        scale = weight if weight is None else weight.to(mean.dtype)
        if grad is not None and ctx.corrected:
            own_invstd, invstd = torch.rsqrt(own_var + ctx.eps), torch.rsqrt(var + ctx.eps)
            r, d = invstd / own_invstd, (own_mean - mean) * invstd
            grad_x, slope, grad_bias = _batch_norm_backward(
                grad, x, r if scale is None else r * scale, own_mean, own_invstd, ctx
            )
            grad_weight = torch.addcmul(d * grad_bias, r, slope)
        elif grad is not None:
            grad_x, grad_weight, grad_bias = _backward_of_torch(
                grad, x, scale, mean, var, None, None, False, ctx.eps, [True] * 3
            )
        if grad_mean is not None or grad_var is not None:
            zero = torch.zeros_like(own_mean)
            both = torch.stack([v if v is not None else zero for v in (grad_mean, grad_var)])
            if ctx.group is not None:
                dist.all_reduce(both, group=ctx.group)
            mean = batch_statistics(x).mean if torch.is_grad_enabled() else own_mean
            extra = _moments_gradient(x, mean, ctx.count, *both)
            grad_x = extra if grad_x is None else grad_x + extra
        grads = (grad_x, grad_weight, grad_bias)
        wanted = ctx.needs_input_grad
        return *(g if w else None for g, w in zip(grads, wanted, strict=False)), *[None] * 8


def _batch_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, invstd: Tensor, ctx: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return batch normalization's gradients, over the rows of all ranks where there is a group."""
    alone = ctx.group is None
    grad_x, grad_weight, grad_bias = _backward_of_torch(
        grad, x, weight, None, None, mean, invstd, True, ctx.eps, [alone, True, True]
    )
    if not alone:
        sums = torch.stack([grad_bias, grad_weight])
        dist.all_reduce(sums, group=ctx.group)
        offset, slope = sums / ctx.count
        x_hat = (x - _channels(mean, x)) * _channels(invstd, x)
        grad_x = grad - _channels(offset, x) - x_hat * _channels(slope, x)
        grad_x = (grad_x * _channels(weight * invstd, x)).to(x.dtype)
    return grad_x, grad_weight, grad_bias


def _backward_of_torch(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor | None, *rest: Any
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Call torch's kernel, which divides by the number of rows, except on no rows at all."""
    if x.numel() > 0:
        return torch.ops.aten.native_batch_norm_backward(grad, x, weight, mean, *rest)
    nothing = torch.zeros_like(rest[1] if mean is None else mean)
    return torch.zeros_like(x), nothing, nothing
