"""How far apart the statistics of labeled, unlabeled and test images are, layer by layer."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.common.training import evaluating
from ubnlib.functional import Statistics, batch_statistics, gap


def norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return a model's normalization layers by name, without a final `.norm`."""
    return {
        name.removesuffix(".norm"): module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
    }


def layer_statistics(model: nn.Module, images: Tensor) -> dict[str, Statistics]:
    """Return the statistics of each normalization layer's input, in evaluation.

    Args:
        model: A model with normalization layers, each called once.
        images: The model's input, [N, ...].
    """
    found: dict[str, Statistics] = {}

    def watch(name: str):
        def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
            found[name] = batch_statistics(inputs[0])

        return note

    hooks = [layer.register_forward_pre_hook(watch(n)) for n, layer in norm_layers(model).items()]
    try:
        with evaluating(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def layer_averages(model: nn.Module) -> dict[str, Statistics]:
    """Return the moving averages of each normalization layer."""
    return {
        name: Statistics(layer.running_mean.clone(), layer.running_var.clone(), 1)
        for name, layer in norm_layers(model).items()
    }


def distances(
    a: Mapping[str, Statistics], b: Mapping[str, Statistics], eps: float = 1e-5
) -> dict[str, float]:
    """Return how far two sets of statistics are apart, by layer.

    It is `statistics_gap`'s distance, in units of b's variance, averaged over channels.
    """
    return {name: gap(a[name], b[name], b[name], eps).mean().item() for name in a}
