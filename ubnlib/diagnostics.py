"""Look at, refresh and resample the statistics behind a model's predictions."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ubnlib.distributed import group_of, pool
from ubnlib.forward import collecting, ubn_layers, using
from ubnlib.functional import Statistics, batch_statistics, gap, merge
from ubnlib.trees import tree_map


def statistics_gap(model: nn.Module, gradient: bool = False) -> Tensor:
    """Return how far the labeled and unlabeled statistics of the last UBN step lie apart.

    It is the mean of (mu_x - mu_y)^2 / sigma_n^2 + (log sigma_x^2 - log sigma_y^2)^2 / 4 over
    layers and channels, a scalar. With `keep_graph=True` its gradient reaches the labeled
    statistics, and with `stats_grad="all"` the unlabeled ones too; else it is a constant. After
    two passes the unlabeled statistics are step 1's without the labeled rows of step 2: where
    layers before draw at random (dropout), these differ, and only `interleave=True` has the gap.

    Args:
        model: A model whose last step was a whole UBN step with unlabeled rows. Steps without any
            (None) leave the statistics of the one before.
        gradient: Whether to refuse a gap without gradient, which in a loss would do nothing.

    Raises:
        RuntimeError: The model has not made a UBN step yet, or a gradient is asked for and there is
            none, as of the labeled rows after two passes with `stats_grad="all"`.
        ValueError: The model has no UBN layer, or the step had no unlabeled rows.
    """
    gaps = []
    for layer in ubn_layers(model):
        for union, labeled, unlabeled, *_ in layer.last_step:
            if labeled is None:
                raise RuntimeError(
                    "The model has made step 1 only, or one joint pass: run the labeled rows "
                    "inside using(model), or say ubn_forward(..., interleave=True)."
                )
            if unlabeled is None:  # here, if rows are left out inside of the model
                continue
            if gradient and unlabeled.mean.requires_grad and not labeled.mean.requires_grad:
                raise RuntimeError(
                    'The gap has no gradient to the labeled rows in two passes with stats_grad="all'
                    '": say ubn_forward(..., interleave=True).'
                )
            # Where no rank has rows of one kind, there is nothing that could differ.
            some = (labeled.count > 0) & (unlabeled.count > 0)
            gaps.append(gap(labeled, unlabeled, union, layer.eps) * some)
    if not gaps:
        if any(layer.last_step for layer in ubn_layers(model)):
            raise ValueError(
                "The last UBN step had no unlabeled rows, to which there could be a gap."
            )
        raise RuntimeError("The model has made no UBN step: call ubn_forward on it first.")
    distance = torch.cat(gaps).mean()
    if gradient and torch.is_grad_enabled() and not distance.requires_grad:
        raise RuntimeError(
            "The gap has no gradient: convert_ubn(model, keep_graph=True) keeps it in steps with "
            "gradient."
        )
    return distance


@contextmanager
def _training(layers: list[_BatchNorm], frozen: bool, **switches: Any) -> Iterator[list]:
    """Yield those not `frozen` in eval mode, training with these switches; restore all after."""
    free = [layer for layer in layers if layer.training or not frozen]
    before = [(layer, dict(vars(layer))) for layer in layers]
    buffers = [(buffer, buffer.clone()) for layer in free for buffer in layer.buffers()]
    try:
        for layer in free:
            layer.training = True
            vars(layer)["_seen"] = None  # the last step's stays as it is
            if switches:
                layer.configure(**switches)
        yield free
    finally:
        for layer, attributes in before:
            layer.__dict__ = attributes
        for buffer, value in buffers:
            buffer.data.copy_(value)  # unseen by autograd, which may hold it for a backward pass


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
    size; within a batch, activations are normalized by that batch, as in training (Precise BN: Wu
    and Johnson 2021, arXiv:2105.07576). Works for UBN and plain batch normalization; all else stays
    in its mode. Under DistributedDataParallel, the statistics are those of all ranks' batches.

    Layers in eval mode in a model that trains are frozen, and stay as they are. In a model that
    is in eval mode throughout, nothing tells frozen layers from others, and all are refreshed.

    Args:
        model: The model, which is returned.
        batches: Such as a DataLoader; at least one batch. Of a tuple or list, such as (inputs,
            targets), the model gets the first entry, and of anything else all, as its argument.
        call: What passes a batch, as it comes, to the model, such as `lambda b: model(**b)`.
        device: Where to move a batch's tensors first; None leaves them where they are.

    Raises:
        ValueError: There is no batch, or no layer that keeps running statistics and is not frozen.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no layer that keeps running statistics.")
    group = group_of(model)
    wrapped = isinstance(getattr(model, "_orig_mod", model), DistributedDataParallel)
    model_here = model.module if wrapped else model
    population: dict[_BatchNorm, Statistics] = {}

    def gather(layer: _BatchNorm, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x = (args[0] if args else kwargs["input"]).detach()
        if x.dim() < 2:
            layer._check_input_dim(x)
        batch = batch_statistics(x)
        population[layer] = merge(population[layer], batch) if layer in population else batch

    def first(batch: Any) -> Any:
        return model_here(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def there(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, Tensor) else leaf

    trains = any(module.training for module in model.modules())
    with _training(layers, trains) as layers, ExitStack() as hooks:
        if not layers:
            raise ValueError(
                "Every layer that keeps running statistics is frozen, in eval mode in a model that "
                "trains: call train() on those to be refreshed."
            )
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(gather, with_kwargs=True))
        hooks.enter_context(torch.compiler.set_stance("force_eager"))  # graphs may pass by hooks
        for batch in batches:
            (call or first)(batch if device is None else tree_map(there, batch))
    if group is not None:
        for layer in layers:
            nothing = batch_statistics(layer.running_mean.new_empty(0, layer.num_features))
            (population[layer],) = pool((population.get(layer, nothing),), group)
    population = {layer: found for layer, found in population.items() if found.count > 0}
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
    respect to inputs and parameters, but not through activation checkpoints. The model's modes,
    running averages and last step are left as they were. Layers other than UBN, and UBN's in eval
    mode beside others that train, stay in their mode: call `model.eval()` to switch dropout off.

    Args:
        model: A model with UBN layers.
        inputs: [N, ...], the inputs to predict: the model's argument, a tensor or a tree of them.
        reference_batches: At least one batch [M, ...] of such inputs that sets the statistics.

    Returns:
        [S, N, ...], the model's output for each of the S reference batches, a tensor or a tree of
        them; their standard deviation over the first dimension is Figure 4's uncertainty.

    Raises:
        ValueError: The model has no UBN layer, or there is no reference batch.
    """
    layers = ubn_layers(model)
    predictions = []
    trains = any(layer.training for layer in layers)  # dropout may, in a model in eval mode
    with _training(layers, trains, source="batch", stats_grad="none", unlabeled_weight=None):
        for reference in reference_batches:
            with collecting(model):
                model(reference)
            with using(model):
                predictions.append(model(inputs))
    if not predictions:
        raise ValueError("There is no reference batch to take statistics from: give at least one.")
    return tree_map(
        lambda leaf, *others: torch.stack([leaf, *others]) if isinstance(leaf, Tensor) else leaf,
        *predictions,
    )
