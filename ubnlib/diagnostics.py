"""Look at, refresh and resample the statistics behind a model's predictions."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ubnlib.batchnorm import UnsupervisedBatchNorm
from ubnlib.distributed import group_of, pool
from ubnlib.forward import collecting, ubn_layers, using
from ubnlib.functional import Statistics, batch_statistics, gap, merge
from ubnlib.trees import tree_map

GapGradient = Literal["labeled", "unlabeled", "both"]


def statistics_gap(model: nn.Module, gradient: GapGradient | None = None) -> Tensor:
    """Return how far the labeled and unlabeled statistics of the last UBN step lie apart.

    The mean, over layers and channels, of

        (mu_x - mu_y)^2 / sigma_n^2 + (log sigma_x^2 - log sigma_y^2)^2 / 4.

    To add a multiple of it to a loss, convert the model with `keep_graph=True`, or the gap is a
    constant: its gradient then reaches the labeled statistics, and with `stats_grad="all"` the
    unlabeled ones too.

    Args:
        model: A model whose last step was a whole UBN step with unlabeled rows.
        gradient: Let it through to the statistics of these rows alone; None lets through all that
            there is. With one half alone, sigma_n^2 is a constant too.

    Raises:
        RuntimeError: The model has not made a UBN step yet, or a gradient is asked for and none
            was kept: without `keep_graph`, or of the labeled statistics after two passes with
            `stats_grad="all"`.
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
            if gradient and torch.is_grad_enabled() and not layer.keep_graph:
                raise RuntimeError(
                    "The statistics of the last step are constants, so that the gap has no "
                    "gradient: convert_ubn(model, keep_graph=True) keeps theirs."
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
def refresh_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    call: Callable[[Any], Any] | None = None,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Set the running statistics to those of all batches together, in place.

    The mean and variance of each layer's inputs are merged exactly, also over batches of uneven
    size; within a batch, activations are normalized by that batch, as in training (Precise BN:
    Wu and Johnson 2021, arXiv:2105.07576). Works for UBN and plain batch normalization layers;
    everything else in the model stays in its mode. Under DistributedDataParallel, every rank gives
    batches of its own, as many as it has, and the statistics are those of all ranks.

    Layers in eval mode in a model that trains are frozen, and stay as they are. In a model that
    is in eval mode throughout, nothing tells frozen layers from others, and all are refreshed.

    Args:
        model: The model, which is returned.
        batches: Such as a DataLoader; at least one batch. Of a tuple or list, such as (inputs,
            targets), the model gets the first entry, and of anything else all, as its argument.
        call: What passes a batch, as it comes, through the model, in place of that; for instance
            `lambda batch: model(**batch)`.
        device: Where to move a batch's tensors first; None leaves them where they are.

    Raises:
        ValueError: There is no batch, no layer that keeps running statistics, or none but frozen
            ones.

    Example:
        >>> import torch
        >>> from ubnlib import refresh_statistics
        >>> images, classes = torch.randn(12, 3, 8, 8) + 2, torch.arange(12)
        >>> data = torch.utils.data.TensorDataset(images, classes)
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten())
        >>> _ = refresh_statistics(model, torch.utils.data.DataLoader(data, batch_size=5))
        >>> torch.allclose(model[0].running_mean, images.mean((0, 2, 3)), atol=1e-5)
        True
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no layer that keeps running statistics.")
    if any(module.training for module in model.modules()):
        layers = [layer for layer in layers if layer.training]
        if not layers:
            raise ValueError(
                "Every layer that keeps running statistics is frozen, in eval mode in a model that "
                "trains: call train() on those to be refreshed."
            )
    group = group_of(model)
    wrapped = isinstance(getattr(model, "_orig_mod", model), DistributedDataParallel)
    model_here = model.module if wrapped else model
    population: dict[_BatchNorm, Statistics] = {}

    def gather(layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        batch = batch_statistics(inputs[0].detach())
        population[layer] = merge(population[layer], batch) if layer in population else batch

    def first(batch: Any) -> Any:
        return model_here(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def there(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, Tensor) else leaf

    hooks = [layer.register_forward_pre_hook(gather) for layer in layers]
    try:
        with _kept(layers):
            for layer in layers:
                layer.training = True
            for batch in batches:
                (call or first)(batch if device is None else tree_map(there, batch))
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


def monte_carlo_predictions(model: nn.Module, inputs: Any, reference_batches: Iterable[Any]) -> Any:
    """Predict fixed inputs under the statistics of each reference batch (the paper's Figure 4).

    The statistics count as constants: gradients, where enabled, are those of the predictions with
    respect to inputs and parameters. The model's modes and running averages are left as they
    were. Layers other than UBN stay in their mode, so call `model.eval()` to switch dropout off.

    Args:
        model: A model with UBN layers.
        inputs: [N, ...], the inputs to predict: the model's argument, a tensor or a tree of them.
        reference_batches: At least one batch [M, ...] of such inputs that sets the statistics.

    Returns:
        [S, N, ...], the model's output for each of the S reference batches; their standard
        deviation over the first dimension is Figure 4's uncertainty. Where the model gives
        a mapping, tuple, list or dataclass, so is this, each tensor in it with the dimension S.

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
    return tree_map(_stacked, *predictions)


def _stacked(leaf: Any, *others: Any) -> Any:
    """Stack tensors; what is no tensor, such as None, is that of the first."""
    return torch.stack([leaf, *others]) if isinstance(leaf, Tensor) else leaf


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
