"""Look at, refresh and resample the statistics behind a model's predictions."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ubnlib.batchnorm import UnsupervisedBatchNorm
from ubnlib.distributed import group_of, pool
from ubnlib.forward import collecting, ubn_layers, using
from ubnlib.functional import Statistics, batch_statistics, gap, merge

GapGradient = Literal["labeled", "unlabeled", "both"]


def statistics_gap(model: nn.Module, gradient: GapGradient | None = None) -> Tensor:
    """Return how far the labeled and unlabeled statistics of the last UBN step lie apart.

    The mean, over layers and channels, of

        (mu_x - mu_y)^2 / sigma_n^2 + (log sigma_x^2 - log sigma_y^2)^2 / 4.

    The gradient reaches the labeled statistics, and with `stats_grad="all"` the unlabeled ones
    too, so that a multiple of the gap can be added to a loss before `backward`.

    Args:
        model: A model whose last step was a whole UBN step with unlabeled rows.
        gradient: Let it through to the statistics of these rows alone; None lets through all that
            there is. With one half alone, sigma_n^2 is a constant too.

    Raises:
        RuntimeError: The model has not made a UBN step yet, or a gradient is asked for after two
            passes with `stats_grad="all"`, which keep none of the labeled statistics.
        ValueError: The model has no UBN layer, or the step had no unlabeled rows.
    """
    gaps = []
    for layer in ubn_layers(model):
        for union, labeled, unlabeled, *_ in layer.last_step:
            if labeled is None:
                raise RuntimeError(
                    "The model has made step 1 only: run the labeled rows inside using(model)."
                )
            if unlabeled is None:
                raise ValueError(
                    "The last UBN step had no unlabeled rows beside the labeled ones: there is no "
                    "gap between the two."
                )
            if gradient and unlabeled.mean.requires_grad and not labeled.mean.requires_grad:
                raise RuntimeError(
                    'The gap has no gradient to the labeled rows in two passes with stats_grad="all'
                    '": say ubn_forward(..., interleave=True).'
                )
            if gradient == "labeled":
                unlabeled = unlabeled.detach()
            if gradient == "unlabeled":
                labeled = labeled.detach()
            if gradient in ("labeled", "unlabeled"):
                union = union.detach()
            gaps.append(gap(labeled, unlabeled, union, layer.eps))
    if not gaps:
        raise RuntimeError("The model has made no UBN step: call ubn_forward on it first.")
    return torch.cat(gaps).mean()


@contextmanager
def _kept(layers: list[_BatchNorm]) -> Iterator[None]:
    """Restore the mode and buffers of batch normalization layers, whatever happens inside."""
    before = [(layer.training, [b.clone() for b in layer.buffers()]) for layer in layers]
    try:
        yield
    finally:
        for layer, (training, buffers) in zip(layers, before, strict=True):
            layer.training = training
            with torch.no_grad():
                for buffer, value in zip(layer.buffers(), buffers, strict=True):
                    buffer.copy_(value)


@torch.no_grad()
def refresh_statistics(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Set the running statistics to those of all batches together, in place.

    The mean and variance of each layer's inputs are merged exactly, also over batches of uneven
    size; within a batch, activations are normalized by that batch, as in training (Precise BN:
    Wu and Johnson 2021, arXiv:2105.07576). Works for UBN and plain batch normalization layers;
    everything else in the model stays in its mode. Under DistributedDataParallel, every rank gives
    batches of its own, as many as it has, and the statistics are those of all ranks.

    Args:
        model: The model, which is returned.
        batches: Inputs to the model; at least one.

    Raises:
        ValueError: There is no batch, or no layer that keeps running statistics.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no layer that keeps running statistics.")
    group = group_of(model)
    model_here = model.module if group is not None else model
    population: dict[_BatchNorm, Statistics] = {}

    def gather(layer: _BatchNorm, inputs: tuple[Tensor]) -> None:
        batch = batch_statistics(inputs[0].detach())
        population[layer] = merge(population[layer], batch) if layer in population else batch

    hooks = [layer.register_forward_pre_hook(gather) for layer in layers]
    try:
        with _kept(layers):
            for layer in layers:
                layer.training = True
            for batch in batches:
                model_here(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if group is not None:
        for layer in layers:
            here = population.get(
                layer, batch_statistics(layer.running_mean.new_empty(0, layer.num_features))
            )
            (population[layer],) = pool((here,), group)
    if not population:
        raise ValueError("There is no batch to refresh the statistics from: give at least one.")
    for layer, statistics in population.items():
        mean, var = statistics.unbiased
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)
    return model


def monte_carlo_predictions(
    model: nn.Module, inputs: Tensor, reference_batches: Iterable[Tensor]
) -> Tensor:
    """Predict fixed inputs under the statistics of each reference batch (the paper's Figure 4).

    The statistics count as constants: gradients, where enabled, are those of the predictions with
    respect to inputs and parameters. The model's modes and running averages are left as they
    were. Layers other than UBN stay in their mode, so call `model.eval()` to switch dropout off.

    Args:
        model: A model with UBN layers.
        inputs: [N, ...], the inputs to predict.
        reference_batches: At least one batch [M, ...] that sets the statistics.

    Returns:
        [S, N, ...], the model's output for each of the S reference batches; their standard
        deviation over the first dimension is Figure 4's uncertainty.

    Raises:
        ValueError: The model has no UBN layer, or there is no reference batch.
    """
    layers = ubn_layers(model)
    predictions = []
    with _kept(layers), _constant_statistics(layers):
        for layer in layers:
            layer.training = True
        for reference in reference_batches:
            with collecting(model):
                model(reference)
            with using(model):
                predictions.append(model(inputs))
    if not predictions:
        raise ValueError("There is no reference batch to take statistics from: give at least one.")
    return torch.stack(predictions)


@contextmanager
def _constant_statistics(layers: list[UnsupervisedBatchNorm]) -> Iterator[None]:
    """Read the layers literally for a while: statistics of the collected batch, as constants."""
    before = [(layer.source, layer.stats_grad) for layer in layers]
    try:
        for layer in layers:
            layer.configure(source="batch", stats_grad="none")
        yield
    finally:
        for layer, (source, stats_grad) in zip(layers, before, strict=True):
            layer.configure(source=source, stats_grad=stats_grad)
