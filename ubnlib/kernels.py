"""What is worth more than plain tensor operations: fused forwards with their own backwards.

Torch's own batch normalization kernels do the work, one pass over the data each. Under
torch.compile, which fuses by itself, and on devices without these kernels, plain operations do.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance per channel, each [C], in float32 at least, as constants."""
    x = x.detach()
    half = x.dtype in (torch.float16, torch.bfloat16)
    if x.device.type not in ("cpu", "cuda") or torch.compiler.is_compiling():
        var, mean = torch.var_mean(x.float() if half else x, [0, *range(2, x.dim())], correction=0)
        return mean, var
    if half and x.device.type == "cpu":  # the kernel would answer in half precision
        x = x.float()
    if x.device.type == "cpu" and x[:1, :1].numel() >= 256 and x.is_contiguous():
        return _moments_row_by_row(x)
    return torch.batch_norm_update_stats(x, None, None, 0.0)


def _moments_row_by_row(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the moments of a contiguous x through those of each row, all of the same count.

    On the CPU, group normalization's kernel finds them faster than batch normalization's. It also
    normalizes, which nobody asked for: a few rows at once keep that small.
    """
    channels, positions = x.size(1), x[:1, :1].numel()
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


def normalize_by_constants(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Return equation 4 with a fused kernel; mean and var [C] carry no gradient."""
    weight, bias = (v if v is None else v.to(mean.dtype) for v in (weight, bias))
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)


class NormalizeLabeled(torch.autograd.Function):
    """Equation 4 with constant statistics, and x's own moments with their gradient beside it.

    The value is equation 4's. With `corrected`, the gradient is that of this way to write it,

        (x - mu_n) / sigma_n = (x - mu_x) / sigma_x * r + d,
        r = sigma_x / sigma_n,  d = (mu_x - mu_n) / sigma_n,

    with r and d held constant, as Batch Renormalization (Ioffe 2017, arXiv:1702.03275) does with
    moving averages; without, mu_n and sigma_n are constants and the rest follows.

    x's moments are returned because one node for both lets go of x when the loss has gone
    backward, whether or not the moments took part in it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        own_mean: Tensor,
        own_var: Tensor,
        count: int | Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
        corrected: bool,
        group: ProcessGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalized rows, and mean and variance of x."""
        ctx.count, ctx.eps, ctx.corrected, ctx.group = count, eps, corrected, group
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, own_mean, own_var, mean, var)
        out = normalize_by_constants(x, mean, var, weight, bias, eps)
        return out, own_mean, own_var

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
        if grad is not None:
            scale = weight if weight is None else weight.to(mean.dtype)
            if not ctx.corrected:
                grad_x, grad_weight, grad_bias = _backward_of_torch(
                    grad, x, scale, mean, var, None, None, False, ctx.eps, [True] * 3
                )
            else:
                own_invstd, invstd = torch.rsqrt(own_var + ctx.eps), torch.rsqrt(var + ctx.eps)
                r, d = invstd / own_invstd, (own_mean - mean) * invstd
                grad_x, slope, grad_bias = _batch_norm_backward(
                    grad, x, r if scale is None else r * scale, own_mean, own_invstd, ctx
                )
                grad_weight = torch.addcmul(d * grad_bias, r, slope)
        if grad_mean is not None or grad_var is not None:
            zero = torch.zeros_like(own_mean)
            both = torch.stack([v if v is not None else zero for v in (grad_mean, grad_var)])
            if ctx.group is not None:
                dist.all_reduce(both, group=ctx.group)
            extra = _moments_gradient(x, own_mean, ctx.count, *both)
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
    nothing = torch.zeros(
        x.size(1), device=x.device, dtype=(rest[1] if mean is None else mean).dtype
    )
    return torch.zeros_like(x), nothing, nothing
