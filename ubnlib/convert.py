"""Turn a model's batch normalization into Unsupervised Batch Normalization, and back."""

import warnings
from collections import defaultdict
from collections.abc import Container, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from ubnlib.batchnorm import (
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
UBN_NAMES = set(dir(UnsupervisedBatchNorm)) - set(dir(_BatchNorm))
MOMENTA = "_momenta"  # a converted layer's momentum before convert_ubn and after it


def convert_ubn(model: Model, *, preset: str | None = None, **options: Any) -> Model:
    """Turn every nn.BatchNorm1d/2d/3d and nn.SyncBatchNorm of a model into its UBN layer, in place.

    Each layer stays the object that it was and changes its class, as torch's own
    parametrizations do: parameters (an optimizer made before still works), buffers, hooks, shared
    modules, names, mode and device are untouched, and checkpoints load both ways. Layers that are
    UBN already take the options. `revert_ubn` undoes it. If it raises, nothing has changed.

    Args:
        model: Any module, also one that is itself a BatchNorm, or a wrapper such as
            DistributedDataParallel; it is returned.
        preset: `"paper"` for the paper's literal text.
        **options: `momentum` or `decay`, `source`, `stats_grad`, `running_stat`,
            `unlabeled_weight`, `skip_nonfinite`, as in `UnsupervisedBatchNorm2d`; they go before
            the preset's. What is not given stays as it is.

    Raises:
        ValueError: An unknown preset, a value that is not allowed for a layer, or a layer with an
            attribute of the user's that has the name of one of UBN's.
        TypeError: An unknown option; or a model that cannot be converted, since torch.jit has
            compiled it or a lazy BatchNorm of it has yet to see its first input.
        RuntimeError: The model is inside a UBN step.

    Warns:
        UserWarning: Layers are left as they are: a subclass of BatchNorm that is not known here,
            a parametrized layer, or one whose `forward` has been replaced.

    Example:
        >>> import torch
        >>> from ubnlib import convert_ubn
        >>> norm = convert_ubn(torch.nn.BatchNorm2d(8), stats_grad="none")
        >>> norm  # doctest: +ELLIPSIS
        UnsupervisedBatchNorm2d(8, eps=1e-05, momentum=0.1, ..., stats_grad='none')
        >>> convert_ubn(norm, decay=0.75).momentum, norm.stats_grad
        (0.25, 'none')
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}: it must be one of {', '.join(PRESETS)}.")
    chosen = dict(PRESETS.get(preset, {}))
    if "momentum" in options:
        chosen.pop("decay", None)
    chosen.update(options)

    norms = _named(model, _BatchNorm)
    _refuse_unconvertible(model, norms)
    ubn = {type(norm) for norm in norms.values() if isinstance(norm, UnsupervisedBatchNorm)}
    layers = _changeable(norms, ubn | UBN_OF.keys(), "convert_ubn")
    twins = [_configured_twin(layer, chosen) for layer in layers]  # refuses before any change
    for layer, twin in zip(layers, twins, strict=True):
        layer.__class__ = type(twin)
        vars(layer).update(vars(twin))
    return model


def revert_ubn(model: Model) -> Model:
    """Turn every UBN layer of a model back into plain batch normalization, in place.

    The inverse of `convert_ubn`: `revert_ubn(convert_ubn(model, ...))` is the model in every
    attribute, whatever the options and however often it was converted. What was trained stays,
    and so does a momentum that was set on a layer after it was converted. Layers that were made
    as UBN become the BatchNorm of the same settings.

    Args:
        model: Any module, also one that is itself a UBN layer or has none; it is returned.

    Raises:
        RuntimeError: The model is inside a UBN step; nothing has changed.

    Warns:
        UserWarning: Layers are left as they are, as in `convert_ubn`.

    Example:
        >>> import torch
        >>> from ubnlib import convert_ubn, revert_ubn
        >>> norm = convert_ubn(torch.nn.BatchNorm2d(8, momentum=0.2), preset="paper")
        >>> round(norm.momentum, 3)
        0.1
        >>> revert_ubn(norm)  # doctest: +ELLIPSIS
        BatchNorm2d(8, eps=1e-05, momentum=0.2, affine=True, ...track_running_stats=True)
    """
    ubn = _named(model, UnsupervisedBatchNorm)
    for layer in _changeable(ubn, BN_OF, "revert_ubn"):
        layer.momentum = _momentum_without_ubn(layer)
        for name in (*SWITCHES, *STEP_STATE, MOMENTA):
            vars(layer).pop(name, None)
        layer.__class__ = BN_OF[type(layer)]
    return model


def _named(model: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    """Return the modules of a kind by their names, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def _changeable(
    layers: Mapping[str, nn.Module], classes: Container[type], verb: str
) -> list[nn.Module]:
    """Return the layers whose class can change; warn of the others, once for each class."""
    if any(getattr(layer, "_step", None) is not None for layer in layers.values()):
        raise RuntimeError(f"A UBN step is under way in this model: call {verb} outside of it.")
    changeable, left = [], defaultdict(list)
    for name, layer in layers.items():
        if type(layer) not in classes:
            left[type(layer), "it does not know this class"].append(name)
        elif "forward" in vars(layer):
            left[type(layer), "its forward was replaced"].append(name)
        else:
            changeable.append(layer)
    for (kind, why), names in left.items():
        where = ", ".join(name or "the model" for name in names[:3])
        where += f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(
            f"{verb} leaves {where} ({kind.__name__}) as is, since {why}. Call {verb} before you "
            "parametrize, wrap or patch a layer; derive classes of your own from UBN's.",
            stacklevel=3,
        )
    return changeable


def _configured_twin(layer: nn.Module, options: Mapping[str, Any]) -> UnsupervisedBatchNorm:
    """Return what a layer is to be: a UBN layer with its contents, and the options."""
    kind = UBN_OF.get(type(layer), type(layer))
    twin = kind.__new__(kind)
    vars(twin).update(vars(layer))
    twin.configure(**options)
    vars(twin)[MOMENTA] = (_momentum_without_ubn(layer), twin.momentum)
    return twin


def _momentum_without_ubn(layer: nn.Module) -> float | None:
    """Return the momentum from before convert_ubn, unless another was set since."""
    before, given = vars(layer).get(MOMENTA, (layer.momentum, layer.momentum))
    return before if layer.momentum == given else layer.momentum


def _refuse_unconvertible(model: nn.Module, norms: Mapping[str, nn.Module]) -> None:
    """Raise where converting would fail, or would silently be in vain."""
    for name, module in _named(model, torch.jit.ScriptModule).items():
        if module is model or module.original_name in {kind.__name__ for kind in UBN_OF}:
            raise TypeError(
                f"{name or 'The model'} was compiled by torch.jit and cannot change any more: "
                "convert the model before scripting or tracing it."
            )
    for name, norm in norms.items():
        where = f"{name or 'The model'} ({type(norm).__name__})"
        if isinstance(norm, LazyModuleMixin):
            raise TypeError(
                f"{where} has yet to see its first input: run one forward pass first, then convert."
            )
        taken = [own for own in sorted(UBN_NAMES) if type(norm) in UBN_OF and hasattr(norm, own)]
        if taken:
            raise ValueError(f"{where} has attributes that UBN needs: rename {', '.join(taken)}.")
