"""The gradients around each normalization layer, and their parts that collecting anew cancels."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from experiments.depth.layer_statistics import norm_layers

Linear = nn.Linear | _ConvNd


@dataclass
class Flow:
    """What went through a linear layer or convolution and the normalization layer after it.

    Attributes:
        linear: The one before the normalization, or None.
        before: [N, ...], what came into it.
        x: [N, C, ...], what came into the normalization.
        gradient: Of the loss with respect to x, as it went on to `linear`.
    """

    linear: Linear | None
    before: Tensor | None = None
    x: Tensor | None = None
    gradient: Tensor | None = None


@contextmanager
def gradient_flows(net: nn.Module) -> Iterator[dict[str, Flow]]:
    """Keep what goes through each normalization layer, by name; to be read after `backward`.

    Only what this thread sends through counts: not the unlabeled rows that
    `ubnlib.forward.side_by_side` sends through in another one. If it is called more than once, the
    last call counts.

    Args:
        net: Its linear layers and convolutions come just before their normalization in
            `net.modules()`.
    """
    flows = {name: Flow(linear) for name, linear in _linear_before(net).items()}
    here = threading.get_ident()

    def keep_input(flow: Flow) -> Callable:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            if threading.get_ident() == here:
                flow.before = inputs[0].detach()

        return hook

    def keep_gradient(flow: Flow) -> Callable:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            (x,) = inputs
            if x.requires_grad and threading.get_ident() == here:
                flow.x = x.detach()
                # After a repair's hook, if there is one, whose result it sees.
                x.register_hook(lambda gradient: setattr(flow, "gradient", gradient))

        return hook

    with ExitStack() as stack:
        for name, layer in norm_layers(net).items():
            flow = flows[name]
            hooks = [layer.register_forward_pre_hook(keep_gradient(flow))]
            if flow.linear is not None:
                hooks.append(flow.linear.register_forward_pre_hook(keep_input(flow)))
            for hook in hooks:
                stack.callback(hook.remove)
        yield flows


def _linear_before(net: nn.Module) -> dict[str, Linear | None]:
    """Return the last linear layer or convolution before each normalization layer, by name."""
    found, last = {}, None
    for name, module in net.named_modules():
        if isinstance(module, Linear):
            last = module
        elif isinstance(module, _BatchNorm):
            found[name.removesuffix(".norm")], last = last, None
    return found


def common_parts(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a gradient's parts along a shift and along a scale of each channel.

    They are what `repairs.without_cancelled` takes out, and what batch normalization's
    gradient does not have.

    Args:
        gradient: Of the loss with respect to x.
        x: [N, C, ...].
    """
    across = [0, *range(2, x.dim())]
    centered = x - x.mean(across, keepdim=True)
    square = centered.square().sum(across, keepdim=True).clamp_min(1e-12)
    scale = (gradient * centered).sum(across, keepdim=True) / square * centered
    return gradient.mean(across, keepdim=True).expand_as(x), scale


def measure_gradients(flow: Flow) -> dict[str, float]:
    """Measure how much of the gradients at a layer is common to a channel, and how weights move.

    Returns:
        `gradient_shift` and `gradient_scale`, the shares of the gradient with respect to x that lie
        along a common shift and a common scale of each channel. Of the weight w before it:
        `weight_shift` and `weight_scale`, the shares <part, g> / <g, g> of its gradient g that
        come from these two; `weight_norm` and `gradient_norm`, |w| and |g|; and `radial`, the mean
        over output channels of |<w, g>| / (|w| |g|), which is 0 for batch normalization.
    """
    parts = dict(zip(("shift", "scale"), common_parts(flow.gradient, flow.x), strict=True))
    shares = {f"gradient_{name}": _share(p, flow.gradient) for name, p in parts.items()}
    if flow.linear is None:
        return shares
    with torch.enable_grad():
        output, weight = flow.linear(flow.before), flow.linear.weight

        def through(gradient: Tensor) -> Tensor:
            return torch.autograd.grad(output, weight, gradient, retain_graph=True)[0]

        whole = through(flow.gradient)
        shares |= {f"weight_{name}": _share(through(p), whole) for name, p in parts.items()}
    channel = 1 if isinstance(flow.linear, _ConvTransposeNd) else 0
    w, g = (v.detach().movedim(channel, 0).flatten(1) for v in (weight, whole))
    radial = torch.cosine_similarity(w, g, dim=1).abs().mean().item()
    return shares | dict(weight_norm=w.norm().item(), gradient_norm=g.norm().item(), radial=radial)


def _share(part: Tensor, whole: Tensor) -> float:
    return ((part * whole).sum() / whole.square().sum()).item()
