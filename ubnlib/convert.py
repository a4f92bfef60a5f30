"""Turn a model's batch normalization into Unsupervised Batch Normalization, and back."""

import warnings
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ubnlib.layers import (
    PRESETS,
    STEP_STATE,
    SWITCHES,
    UnsupervisedBatchNorm,
    UnsupervisedBatchNorm1d,
    UnsupervisedBatchNorm2d,
    UnsupervisedBatchNorm3d,
    UnsupervisedSyncBatchNorm,
)

Model = TypeVar("Model", bound=nn.Module)

UBN_OF = {
    nn.BatchNorm1d: UnsupervisedBatchNorm1d,
    nn.BatchNorm2d: UnsupervisedBatchNorm2d,
    nn.BatchNorm3d: UnsupervisedBatchNorm3d,
    nn.SyncBatchNorm: UnsupervisedSyncBatchNorm,
}
BN_OF = {ubn: bn for bn, ubn in UBN_OF.items()}


def convert_ubn(model: Model, *, preset: str | None = None, **options: Any) -> Model:
    """Turn every nn.BatchNorm1d/2d/3d of a model into its UBN layer, in place.

    Each layer stays the object that it was and changes its class, as torch's own
    parametrizations do: parameters (an optimizer made before still works), buffers, hooks, shared
    modules, names, mode and device are untouched. Layers that are UBN already take the options.

    Args:
        model: Any module, also one that is itself a BatchNorm.
        preset: `"paper"` for the paper's literal text.
        **options: `momentum` or `decay`, `source`, `stats_grad`, `running_stat`, as in
            `UnsupervisedBatchNorm2d`; they go before the preset's.

    Returns:
        The model that came in.

    Raises:
        ValueError: An unknown preset or value; nothing is changed then.
        TypeError: An unknown option.

    Warns:
        UserWarning: A subclass of BatchNorm that is not known here is left as it is.

    Example:
        >>> import torch
        >>> from ubnlib import convert_ubn
        >>> convert_ubn(torch.nn.BatchNorm2d(8), stats_grad="none")  # doctest: +ELLIPSIS
        UnsupervisedBatchNorm2d(8, eps=1e-05, momentum=0.1, ..., stats_grad='none')
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}: it must be one of {', '.join(PRESETS)}.")
    chosen = dict(PRESETS.get(preset, {}))
    if "momentum" in options:
        chosen.pop("decay", None)
    chosen.update(options)

    layers = []
    for name, module in model.named_modules():
        if type(module) in UBN_OF or isinstance(module, UnsupervisedBatchNorm):
            layers.append(module)
        elif isinstance(module, _BatchNorm):
            warnings.warn(
                f"{name or 'The model'} is a {type(module).__name__}, which convert_ubn does not "
                "know: it is left as it is.",
                stacklevel=2,
            )
    for layer in layers:  # refuse before the first change, so that no model is half converted
        UnsupervisedBatchNorm1d(1, track_running_stats=layer.track_running_stats).configure(
            **chosen
        )
    for layer in layers:
        layer.__class__ = UBN_OF.get(type(layer), type(layer))
        layer.configure(**chosen)
    return model


def revert_ubn(model: Model) -> Model:
    """Turn every UBN layer of a model back into plain batch normalization, in place.

    The inverse of `convert_ubn`, except for a `momentum` or `decay` that it was given.

    Example:
        >>> import torch
        >>> from ubnlib import convert_ubn, revert_ubn
        >>> type(revert_ubn(convert_ubn(torch.nn.BatchNorm2d(8)))).__name__
        'BatchNorm2d'
    """
    for module in model.modules():
        if type(module) in BN_OF:
            for name in (*SWITCHES, *STEP_STATE):
                module.__dict__.pop(name, None)
            module.__class__ = BN_OF[type(module)]
    return model
