"""How much of a training step the next collection of statistics cancels.

A reading of UBN holds some of the statistics constant in backward, so its gradient *believes in* a
net whose statistics stay as they were there. The next step collects them anew, and something else
*happens*. The difference is measured on the step's own rows: the change of the loss and of each
layer's normalized output, as believed and as happened.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ubnlib.convert import convert_ubn
from ubnlib.layer_statistics import norm_layers
from ubnlib.layers import UnsupervisedBatchNorm
from ubnlib.passes import Call
from ubnlib.statistics import Moments, batch_statistics, merge, normalize
from ubnlib.steps import side_by_side, two_passes, ubn_layers
from ubnlib.training import evaluating

# The readings of `stats_grad`, and the two halves of "corrected" (see `ubnlib.repairs`).
Belief = Literal["none", "shift", "scale", "corrected", "labeled", "all"]


@dataclass(frozen=True, eq=False)
class StepEffects:
    """What one training step does, on its own rows.

    Attributes:
        loss: Before the step.
        believed: Change of the loss with the new weights and the statistics that the step's
            gradient believes in.
        happened: Change of the loss with the new weights and statistics collected anew.
        layers: One row a normalization layer, named by the index, in the order of the net's
            modules. Of the labeled rows' normalized outputs, gamma and beta included: `believed`
            and `happened`, the changes' root mean squares, and `cancelled`, the share
            1 - <happened, believed> / <believed, believed> of the believed change that does not
            happen. What the layers below lose is lost here too: the inputs differ as well. Of the
            gradient with respect to the layer's input: `gradient_shift` and `gradient_scale`, the
            shares of its square along a common shift and a common scale of each channel. Of the
            weight before the layer: `weight_norm`, `gradient_norm`, and `radial`, the mean over
            output channels of |<w, g>| / (|w| |g|), which is 0 for batch normalization.
    """

    loss: float
    believed: float
    happened: float
    layers: pd.DataFrame


def step_effects(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Any], Tensor],
    labeled: Tensor,
    unlabeled: Tensor | None,
    belief: Belief | None = None,
) -> StepEffects:
    """Make a training step with copies of a net and its optimizer, and measure what it does.

    Args:
        net: In training mode, without layers that draw at random; each normalization layer is
            called once. One with plain batch normalization only is measured as the UBN without
            unlabeled rows that it is.
        optimizer: Over the net's parameters, with its state; it is left as it is, as is the net.
        loss: Of the net's output for the labeled rows.
        labeled: [N, ...].
        unlabeled: [M, ...], or None for none.
        belief: What the gradient believes in: `"none"` holds the statistics that normalize;
            `"corrected"` lets them follow the labeled rows' own mean and scale, `"shift"` their
            mean only, `"scale"` their scale only; `"labeled"` the labeled rows' share in them, and
            with `"all"` everything happens as believed. None: the layers' `stats_grad`.

    Raises:
        ValueError: The layers have several readings, one of them is called more than once, or the
            gradient goes through moving averages.

    Example:
        >>> import torch
        >>> from ubnlib import UnsupervisedBatchNorm1d
        >>> from ubnlib.cancellation import step_effects
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y, t = (torch.randn(n, 3, generator=generator) for n in (8, 24, 8))
        >>> norm = UnsupervisedBatchNorm1d(3, stats_grad="none", affine=False)
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 3), norm)
        >>> optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1)
        >>> effects = step_effects(net, optimizer, lambda z: (z - t).square().mean(), x, y)
        >>> effects.believed < effects.happened  # it does less good than it believed
        True
    """
    net, optimizer = copy.deepcopy((net, optimizer))
    if not any(isinstance(module, UnsupervisedBatchNorm) for module in net.modules()):
        convert_ubn(net)  # "corrected" without unlabeled rows is batch normalization
    layers = norm_layers(net)
    belief = belief or _reading(net)
    others = labeled[:0] if unlabeled is None else unlabeled
    running = any(layer.source == "running" for layer in ubn_layers(net))
    if running and belief in ("labeled", "all"):
        raise ValueError(
            f'The belief is {belief!r} and source="running": beliefs about the statistics of a '
            'batch are measured with source="batch" only.'
        )
    step = two_passes if running else side_by_side

    optimizer.zero_grad()
    with _input_gradients(layers) as gradients:
        loss(step(net, labeled, others)).backward()
    calls = _calls(layers)
    before, output = _normalized(net, labeled, calls, "none")
    table = pd.DataFrame(_gradient_shares(gradients), index=["gradient_shift", "gradient_scale"]).T
    weights = pd.DataFrame(_weights(net)).T
    optimizer.step()
    believed, wanted = _normalized(net, labeled, calls, belief)
    with torch.no_grad():
        step(net, labeled, others)
    happened, gained = _normalized(net, labeled, _calls(layers), "none")
    if belief == "all":
        believed, wanted = happened, gained
    changes = {
        name: _change(believed[name] - before[name], happened[name] - before[name])
        for name in layers
    }
    with torch.no_grad():
        start = loss(output).item()
        changed = loss(wanted).item() - start, loss(gained).item() - start
    return StepEffects(start, *changed, pd.DataFrame(changes).T.join(table).join(weights))


def believed_moments(
    belief: Belief, call: Call, x: Tensor, layer: UnsupervisedBatchNorm
) -> Moments:
    """Return what a layer normalizes x by if the statistics behave as a gradient believes.

    The value is what `call` normalized by as long as x is what it was there. With `corrected`,
    (x - mu_x) / sigma_x * r + d with r and d of that call; see `ubnlib.kernels.NormalizeLabeled`.

    Args:
        belief: As in `step_effects`, but for `"all"`, which needs the unlabeled rows.
        call: The statistics of the layer's last step.
        x: The labeled rows at the layer now, [N, C, ...].
        layer: Whose settings apply.
    """
    if belief == "none":
        return call.reference
    own = batch_statistics(x)
    if belief == "labeled":
        unlabeled = call.unlabeled or own.empty()
        return merge(own, unlabeled, layer.unlabeled_weight).moments
    growth, center = torch.ones_like(own.var), own.mean
    if belief in ("scale", "corrected"):
        growth = (own.var + layer.eps) / (call.labeled.var + layer.eps)
    if belief in ("shift", "corrected"):
        center = call.labeled.mean
    mean = own.mean - growth.sqrt() * (center - call.reference.mean)
    return Moments(mean, growth * (call.reference.var + layer.eps) - layer.eps)


def common_shares(gradient: Tensor, x: Tensor) -> tuple[float, float]:
    """Return the shares of a gradient's square along a shift and along a scale of each channel.

    These are the parts that `ubnlib.repairs.without_cancelled` takes out.

    Args:
        gradient: Of the loss with respect to x.
        x: [N, C, ...].
    """
    across = [0, *range(2, x.dim())]
    count = x.numel() // x.size(1)
    centered = x - x.mean(across, keepdim=True)
    shift = count * gradient.mean(across).square().sum()
    along = (gradient * centered).sum(across).square() / centered.square().sum(across)
    total = gradient.square().sum()
    return (shift / total).item(), (along.nan_to_num(0.0).sum() / total).item()


def _reading(net: nn.Module) -> Belief:
    """Return the layers' common `stats_grad`."""
    readings = {layer.stats_grad for layer in ubn_layers(net)}
    if len(readings) > 1:
        raise ValueError(
            f"The layers have stats_grad {sorted(readings)}: give the belief that is meant."
        )
    return readings.pop()


def _calls(layers: Mapping[str, UnsupervisedBatchNorm]) -> dict[str, Call]:
    """Return what each layer saw in the last step."""
    for name, layer in layers.items():
        if len(layer.last_step) != 1:
            raise ValueError(
                f"Layer {name!r} is called {len(layer.last_step)} times in a step: expected once."
            )
    return {name: layer.last_step[0] for name, layer in layers.items()}


def _normalized(
    net: nn.Module, rows: Tensor, calls: Mapping[str, Call], belief: Belief
) -> tuple[dict[str, Tensor], Any]:
    """Return each layer's output for the labeled rows under a belief, and the net's."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable:
        def renormalize(layer: UnsupervisedBatchNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
            moments = believed_moments(belief, calls[name], inputs[0], layer).detach()
            found[name] = normalize(inputs[0], moments, layer.weight, layer.bias, layer.eps)
            return found[name]

        return renormalize

    hooks = [layer.register_forward_hook(watch(n)) for n, layer in norm_layers(net).items()]
    try:
        with evaluating(net):
            return found, net(rows)
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _input_gradients(
    layers: Mapping[str, UnsupervisedBatchNorm],
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Gather the gradients that go back from each layer, and the labeled rows that came in."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    here = threading.get_ident()  # unlabeled rows that carry gradient go in another thread

    def watch(name: str) -> Callable:
        def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
            (x,) = inputs
            if x.requires_grad and threading.get_ident() == here:
                values = x.detach()
                x.register_hook(lambda gradient: found.__setitem__(name, (gradient, values)))

        return note

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _gradient_shares(
    gradients: Mapping[str, tuple[Tensor, Tensor]],
) -> dict[str, tuple[float, float]]:
    return {name: common_shares(gradient, x) for name, (gradient, x) in gradients.items()}


def _change(believed: Tensor, happened: Tensor) -> dict[str, float]:
    """Compare the changes of one layer's output."""
    kept = (happened * believed).sum() / believed.square().sum()
    sizes = [change.square().mean().sqrt().item() for change in (believed, happened)]
    return dict(believed=sizes[0], happened=sizes[1], cancelled=1 - kept.item())


def _weights(net: nn.Module) -> dict[str, dict[str, float]]:
    """Measure the weight of the last linear layer or convolution before each normalization."""
    found, last = {}, None
    for name, module in net.named_modules():
        if isinstance(module, _ConvNd | nn.Linear):
            last = module
        elif isinstance(module, _BatchNorm) and last is not None:
            pair = torch.stack([last.weight.detach(), last.weight.grad])
            channel = 2 if isinstance(last, _ConvTransposeNd) else 1
            w, g = pair.movedim(channel, 1).flatten(2)
            cosine = torch.cosine_similarity(w, g, dim=1)
            found[name.removesuffix(".norm")] = dict(
                weight_norm=w.norm().item(),
                gradient_norm=g.norm().item(),
                radial=cosine.abs().mean().item(),
            )
            last = None
    return found
