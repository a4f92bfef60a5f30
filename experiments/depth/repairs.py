"""Why the paper's literal reading fails in deep nets, as an intervention: two repairs of it.

With statistics that are constants in backward, the gradient of a layer's input has parts that the
next collection of statistics cancels: a common shift of a channel, and a common scale. Batch
normalization's gradient has neither. A repair takes one of them out, or both; with both, the
gradient is that of `stats_grad="corrected"`.
"""

from typing import Literal

from torch import Tensor, nn

from ubnlib.batchnorm import UnsupervisedBatchNorm
from ubnlib.forward import ubn_layers

Repair = Literal["nothing", "shift", "scale", "both"]


def without_cancelled(gradient: Tensor, x: Tensor, repair: Repair) -> Tensor:
    """Return a gradient without its part along a shift or a scale of each channel.

    Args:
        gradient: Of the loss with respect to x.
        x: [N, C, ...].
        repair: What to take out.
    """
    across = [0, *range(2, x.dim())]
    centered = x - x.mean(across, keepdim=True)
    if repair in ("shift", "both"):
        gradient = gradient - gradient.mean(across, keepdim=True)
    if repair in ("scale", "both"):
        along = (gradient * centered).sum(across, keepdim=True)
        square = centered.square().sum(across, keepdim=True)
        gradient = gradient - along / square.clamp_min(1e-12) * centered
    return gradient


def repair_literal(model: nn.Module, repair: Repair) -> nn.Module:
    """Let every UBN layer of a model take a part out of its input's gradient, in place."""

    def watch(layer: UnsupervisedBatchNorm, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        if layer.training and x.requires_grad:
            values = x.detach()
            x.register_hook(lambda gradient: without_cancelled(gradient, values, repair))

    for layer in ubn_layers(model):
        layer.register_forward_pre_hook(watch)
    return model
