"""How much of a training step the next collection of statistics cancels.

A reading of UBN holds some of the statistics constant in backward: its gradient *believes in* a net
whose statistics behave so. The next step collects them anew, and something else *happens*. The
difference is measured on the step's own labeled rows, for the loss and for each layer's output.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from experiments.common.training import evaluating
from experiments.depth.layer_gradients import gradient_flows, measure_gradients
from experiments.depth.layer_statistics import distances, norm_layers
from ubnlib.batchnorm import Call, UnsupervisedBatchNorm
from ubnlib.convert import convert_ubn
from ubnlib.forward import side_by_side, two_passes
from ubnlib.functional import Moments, batch_statistics, merge, normalize

Belief = Literal["none", "shift", "scale", "corrected", "labeled", "all"]


@dataclass(frozen=True, eq=False)
class StepEffects:
    """What one training step does on its own labeled rows.

    Attributes:
        loss: Before the step.
        promised: Change of the loss by the step's gradient, to first order in the step.
        believed: Change of the loss with the new weights and the statistics that the gradient
            believes in; it tends to `promised` as steps get shorter.
        happened: Change of the loss with the new weights and statistics collected anew.
        layers: One row a normalization layer, in the order of the net's modules, with these
            columns. Of its output for the labeled rows, gamma and beta included: `believed` and
            `happened`, the changes' root mean squares, and `cancelled`, the share
            1 - <happened, believed> / <believed, believed> of the believed change that does not
            happen; what gets lost in the layers before is lost here too. `drift`: how far the step
            moves the collected statistics, by `layer_statistics.distances`. And what
            `layer_gradients.measure_gradients` returns.
    """

    loss: float
    promised: float
    believed: float
    happened: float
    layers: pd.DataFrame


def step_effects(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Any], Tensor],
    labeled: Tensor,
    unlabeled: Tensor | None,
    belief: Belief,
    length: float = 1.0,
) -> StepEffects:
    """Make a training step with copies of a net and its optimizer, and measure what it does.

    Args:
        net: In training mode, without layers that draw at random; its normalization layers are
            all UBN, or all plain batch normalization, which is measured as the UBN without
            unlabeled rows that it is, with the belief `"corrected"`.
        optimizer: Over the net's parameters, with its state. Net and optimizer stay as they are.
        loss: Of the net's output for the labeled rows.
        labeled: [N, ...].
        unlabeled: [M, ...], or None for none.
        belief: The net's `stats_grad`, or the half of `"corrected"` that a repair makes of
            `"none"`; see `believed_moments`.
        length: Share of the optimizer's step that is made.

    Raises:
        ValueError: A layer is not called just once, or the belief is one about batches and the
            layers normalize by moving averages.

    Example:
        >>> import torch
        >>> from ubnlib import UnsupervisedBatchNorm1d
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y, t = (torch.randn(n, 3, generator=generator) for n in (8, 24, 8))
        >>> norm = UnsupervisedBatchNorm1d(3, stats_grad="none", affine=False)
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 3), norm)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> does = step_effects(net, optimizer, lambda z: (z - t).square().mean(), x, y, "none")
        >>> does.believed < does.happened  # it does less good than it believes
        True
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
    step = two_passes if running else side_by_side
    others = labeled[:0] if unlabeled is None else unlabeled

    optimizer.zero_grad()
    with gradient_flows(net) as flows:
        loss(step(net, labeled, others)).backward()
    gradients = {name: measure_gradients(flow) for name, flow in flows.items()}
    calls = _calls(layers)
    before, predicted = _normalized(net, layers, labeled, calls, "none")
    promised = _make_step(net, optimizer, length)
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
    """Return what normalizes x if the statistics behave as a gradient believes.

    As long as x is what it was in `call`, this is what normalized it there.

    Args:
        belief: `"none"` holds what normalizes; with `"corrected"` it follows mean and scale of x,
            as x is normalized by (x - mu_x) / sigma_x * r + d with the r and d of `call`, with
            `"shift"` the mean only and with `"scale"` the scale only; with `"labeled"` it follows
            x as far as x is part of the combined batch. `"all"` needs the unlabeled rows too: it
            holds nothing.
        call: The statistics of the layer's last step.
        x: The labeled rows at the layer now, [N, C, ...].
        layer: Whose settings apply.
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


def _make_step(net: nn.Module, optimizer: torch.optim.Optimizer, length: float) -> float:
    """Make a share of the optimizer's step; return what the gradient promises of it."""
    parameters = [p for p in net.parameters() if p.grad is not None]
    before = [p.detach().clone() for p in parameters]
    optimizer.step()
    promised = 0.0
    with torch.no_grad():
        for p, start in zip(parameters, before, strict=True):
            p.copy_(torch.lerp(start, p, length))
            promised += (p.grad * (p - start)).sum().item()
    return promised


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
