"""How much of a training step the next collection of statistics cancels, and where it comes from.

A reading of UBN holds some of the statistics constant in backward: its gradient *believes in* a net
whose statistics behave so. The next step collects them anew, and something else *happens*. The
difference is measured on the step's own labeled rows, for the loss and for each layer's output;
and so are the parts of the gradients around each layer that collecting anew cancels.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from experiments.common.training import evaluating
from experiments.depth.config import common_scale, common_shift
from experiments.depth.evaluate import distances, norm_layers
from ubnlib.batchnorm import Call, UnsupervisedBatchNorm
from ubnlib.convert import convert_ubn
from ubnlib.forward import two_passes, ubn_forward
from ubnlib.functional import Moments, batch_statistics, merge, normalize

Belief = Literal["none", "shift", "scale", "corrected", "labeled", "all"]
Linear = nn.Linear | _ConvNd


@dataclass(frozen=True, eq=False)
class StepEffects:
    """What one training step does on its own labeled rows.

    `layers` has one row a normalization layer, in the order of the net's modules. Of its output for
    the labeled rows, gamma and beta included: `believed` and `happened`, the changes' root mean
    squares, and `cancelled`, the share 1 - <happened, believed> / <believed, believed> of the
    believed change that does not happen; what gets lost in the layers before is lost here too.
    `drift`: how far the step moves the collected statistics, by `evaluate.distances`. And what
    `measure_gradients` returns.
    """

    loss: float  # before the step
    promised: float  # change of the loss by the step's gradient, to first order in the step
    believed: float  # by the new weights, with the statistics that the gradient believes in
    happened: float  # by the new weights, with statistics collected anew
    layers: pd.DataFrame


def step_effects(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Any], Tensor],
    labeled: Tensor,
    unlabeled: Tensor | None,
    belief: Belief,
) -> StepEffects:
    """Make a training step with copies of a net and its optimizer, and measure what it does.

    The net is in training mode, without layers that draw at random. Its normalization layers are
    all UBN, or all plain batch normalization, which is measured as the UBN without unlabeled rows
    that it is, with the belief `"corrected"`. The loss is of its output for the labeled rows
    [N, ...]; unlabeled ones are [M, ...]. The belief is the net's `stats_grad`, or what a repair
    makes of `"none"`; see `believed_moments`.
    """
    net, optimizer = copy.deepcopy((net, optimizer))
    layers = norm_layers(net)
    if not any(isinstance(layer, UnsupervisedBatchNorm) for layer in layers.values()):
        convert_ubn(net)
    running = any(layer.source == "running" for layer in layers.values())
    if running and belief in ("labeled", "all"):
        raise ValueError(
            f'The belief is {belief!r} and source="running": what moving averages let through is '
            'not measured; use source="batch", or a belief that holds them constant.'
        )
    # Of no unlabeled rows `ubn_forward` would make no step, and here one is looked at.
    step = two_passes if unlabeled is None else partial(ubn_forward, interleave=True)
    others = labeled[:0] if unlabeled is None else unlabeled

    optimizer.zero_grad()
    with gradient_flows(net) as flows:
        loss(step(net, labeled, others)).backward()
    gradients = {name: measure_gradients(flow) for name, flow in flows.items()}
    calls = _calls(layers)
    before, predicted = _normalized(net, layers, labeled, calls, "none")
    promised = _make_step(net, optimizer)
    with torch.no_grad():
        believed, wanted = _normalized(net, layers, labeled, calls, belief)
        step(net, labeled, others)
        anew = _calls(layers)
        happened, gained = _normalized(net, layers, labeled, anew, "none")
        if belief == "all":
            believed, wanted = happened, gained
        start, *ends = (loss(prediction).item() for prediction in (predicted, wanted, gained))
    drift = distances(*({n: c.union for n, c in each.items()} for each in (anew, calls)))
    table = {
        name: _compare(believed[name] - output, happened[name] - output)
        | {"drift": drift[name]}
        | gradients[name]
        for name, output in before.items()
    }
    changes_of_loss = (end - start for end in ends)
    return StepEffects(start, promised, *changes_of_loss, pd.DataFrame.from_dict(table, "index"))


def believed_moments(
    belief: Belief, call: Call, x: Tensor, layer: UnsupervisedBatchNorm
) -> Moments:
    """Return what normalizes x [N, C, ...] if the statistics behave as a gradient believes.

    As long as x is what it was in `call`, the layer's last step, this is what normalized it there.
    `"none"` holds what normalizes; with `"corrected"` it follows mean and scale of x, as x is
    normalized by (x - mu_x) / sigma_x * r + d with the r and d of `call`, with `"shift"` the mean
    only and with `"scale"` the scale only; with `"labeled"` it follows x as far as x is part of the
    combined batch. `"all"` needs the unlabeled rows too: it holds nothing.
    """
    if belief in ("none", "all"):
        return call.reference
    own = batch_statistics(x)
    if belief == "labeled":
        return merge(own, call.unlabeled or own.empty(), layer.unlabeled_weight).moments
    growth, center = torch.ones_like(own.var), own.mean
    if belief in ("scale", "corrected"):
        growth = (own.var + layer.eps) / (call.labeled.var + layer.eps)
    if belief in ("shift", "corrected"):
        center = call.labeled.mean
    mean = own.mean - growth.sqrt() * (center - call.reference.mean)
    return Moments(mean, growth * (call.reference.var + layer.eps) - layer.eps)


def _make_step(net: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Make the optimizer's step; return what the gradient promises of it."""
    parameters = [p for p in net.parameters() if p.grad is not None]
    before = [p.detach().clone() for p in parameters]
    optimizer.step()
    with torch.no_grad():
        changes = zip(parameters, before, strict=True)
        return sum((p.grad * (p - start)).sum().item() for p, start in changes)


def _calls(layers: Mapping[str, UnsupervisedBatchNorm]) -> dict[str, Call]:
    """Return the statistics that each layer saw in the last step."""
    for name, layer in layers.items():
        if len(layer.last_step) != 1:
            raise ValueError(
                f"Layer {name!r} was called {len(layer.last_step)} times in the step: effects are "
                "measured in nets that call each layer once."
            )
    return {name: layer.last_step[0] for name, layer in layers.items()}


@torch.no_grad()
def _normalized(
    net: nn.Module,
    layers: Mapping[str, UnsupervisedBatchNorm],
    rows: Tensor,
    calls: Mapping[str, Call],
    belief: Belief,
) -> tuple[dict[str, Tensor], Any]:
    """Return each layer's output for the labeled rows under a belief, and the net's."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable:
        def renormalize(layer: UnsupervisedBatchNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
            moments = believed_moments(belief, calls[name], inputs[0], layer).detach()
            found[name] = normalize(inputs[0], moments, layer.weight, layer.bias, layer.eps)
            return found[name]

        return renormalize

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        with evaluating(net):
            return found, net(rows)
    finally:
        for hook in hooks:
            hook.remove()


def _compare(believed: Tensor, happened: Tensor) -> dict[str, float]:
    """Compare the changes of one layer's output."""
    kept = (happened * believed).sum() / believed.square().sum()
    sizes = [change.square().mean().sqrt().item() for change in (believed, happened)]
    return dict(believed=sizes[0], happened=sizes[1], cancelled=1 - kept.item())


# --- gradients around each layer ------------------------------------------------------------------


@dataclass
class Flow:
    """What went through a linear layer or convolution and the normalization layer after it."""

    linear: Linear | None  # the one before the normalization
    before: Tensor | None = None  # [N, ...], what came into it
    x: Tensor | None = None  # [N, C, ...], what came into the normalization
    gradient: Tensor | None = None  # of the loss with respect to x, as it went on to `linear`


@contextmanager
def gradient_flows(net: nn.Module) -> Iterator[dict[str, Flow]]:
    """Keep what goes through each normalization layer, by name; to be read after `backward`.

    Only what this thread sends through counts: not the unlabeled rows that
    `interleave=True` sends through in another one. If it is called more than once, the last call
    counts. The net's linear layers and convolutions come just before their normalization
    in `net.modules()`.
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


def measure_gradients(flow: Flow) -> dict[str, float]:
    """Measure how much of the gradients at a layer is common to a channel, and how weights move.

    Returns:
        `gradient_shift` and `gradient_scale`, the shares of the gradient with respect to x that lie
        along a common shift and a common scale of each channel. Of the weight w before it:
        `weight_shift` and `weight_scale`, the shares <part, g> / <g, g> of its gradient g that
        come from these two; `weight_norm` and `gradient_norm`, |w| and |g|; and `radial`, the mean
        over output channels of |<w, g>| / (|w| |g|), which is 0 for batch normalization.
    """
    shift = common_shift(flow.gradient).expand_as(flow.x)
    parts = {"shift": shift, "scale": common_scale(flow.gradient, flow.x)}
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
