"""Turn a model's batch normalization into Unsupervised Batch Normalization, and back."""

import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from ubnlib import batchnorm
from ubnlib.batchnorm import PAPER, STEP_STATE, SWITCHES, UnsupervisedBatchNorm

Model = TypeVar("Model", bound=nn.Module)
Norm = TypeVar("Norm", bound=type[_BatchNorm])
Behind = Callable[..., Tensor]  # takes the layer, its normalized input, what else forward was given

TORCH = {
    nn.BatchNorm1d: batchnorm.UnsupervisedBatchNorm1d,
    nn.BatchNorm2d: batchnorm.UnsupervisedBatchNorm2d,
    nn.BatchNorm3d: batchnorm.UnsupervisedBatchNorm3d,
    nn.SyncBatchNorm: batchnorm.UnsupervisedSyncBatchNorm,
    _BatchNorm: UnsupervisedBatchNorm,
}
# What layers become; subclasses of torch's are added when they are first met.
UBN_OF: dict[type, type] = dict(TORCH)
BN_OF: dict[type, type] = {ubn: bn for bn, ubn in TORCH.items()}
UBN_NAMES = set(dir(UnsupervisedBatchNorm)) - set(dir(_BatchNorm))
MOMENTA = "_momenta"  # a converted layer's momentum before convert_ubn and after it
NAMED = 10  # how many of the layers that are left a warning names, for each class


def _drop_and_activate(layer: nn.Module, x: Tensor) -> Tensor:
    """Do what timm's layers do behind the norm."""
    for part in (getattr(layer, "drop", None), getattr(layer, "act", None)):
        x = x if part is None else part(x)
    return x


# Classes whose own forward is known, and what it does behind the norm: None where it normalizes by
# `super().forward(x)`. Other packages' are known by name, so that they need not be installed.
BEHIND: dict[type | tuple[str, str], Behind | None] = {
    _BatchNorm: None,
    nn.SyncBatchNorm: None,
    ("timm", "BatchNormAct2d"): _drop_and_activate,
    ("timm", "SyncBatchNormAct"): None,
}


def register_norm(norm: Norm, behind: Behind | None = None) -> Norm:
    """Tell convert_ubn about a subclass of BatchNorm that has a forward of its own.

    Its layers then keep all that they do besides normalizing, in a class that derives from `norm`
    and from UBN's. timm's `BatchNormAct2d`, and what inherits torch's forward, are known already.

    Args:
        norm: A subclass of nn.BatchNorm1d, 2d, 3d or nn.SyncBatchNorm. It is returned, so that
            `@register_norm` works as a decorator where `super().forward(x)` is called.
        behind: What its forward does behind the norm, as `behind(layer, normalized)`; further
            arguments of forward follow. None for a class whose forward calls
            `super().forward(x)`, which then is UBN's.

    Raises:
        TypeError: `norm` is no such class.
        ValueError: `behind` is None and the class's forward never calls `super().forward`.

    Example:
        >>> import torch
        >>> from ubnlib import convert_ubn, register_norm
        >>> class NormScale(torch.nn.BatchNorm2d):
        ...     def forward(self, x):
        ...         return 2 * torch.nn.functional.batch_norm(x, None, None, training=True)
        >>> _ = register_norm(NormScale, behind=lambda layer, normalized: 2 * normalized)
        >>> type(convert_ubn(NormScale(3))).__name__
        'UnsupervisedNormScale'
    """
    subclass = isinstance(norm, type) and issubclass(norm, _BatchNorm) and norm not in TORCH
    if not subclass or issubclass(norm, UnsupervisedBatchNorm):
        raise TypeError(
            f"{norm!r} cannot be registered: give a subclass of nn.BatchNorm1d, 2d or 3d or "
            "nn.SyncBatchNorm that is not one of torch's or UBN's own."
        )
    forward = inspect.unwrap(norm.forward)
    code = getattr(forward, "__code__", None)
    parts = (code, *getattr(code, "co_consts", ()))  # also of comprehensions in it
    names = {name for part in parts for name in getattr(part, "co_names", ())}
    if behind is None and _owner(norm) not in BEHIND and not {"super", "forward"} <= names:
        raise ValueError(
            f"{norm.__name__}.forward does not call super().forward(x), so that UBN cannot take "
            "its place: say what it does behind the norm, register_norm(cls, behind=function)."
        )
    for known in [kind for kind in UBN_OF if issubclass(kind, norm)]:
        del UBN_OF[known]
    BEHIND[norm] = behind
    return norm


def convert_ubn(model: Model, *, preset: str | None = None, **options: Any) -> Model:
    """Turn every nn.BatchNorm1d/2d/3d and nn.SyncBatchNorm of a model into its UBN layer, in place.

    Each layer stays the object that it was and changes its class: parameters (an optimizer made
    before still works), buffers, hooks, shared modules, names, mode and device are untouched, and
    checkpoints load both ways. Layers that are UBN already take the options. `revert_ubn` undoes
    it. If it raises, nothing has changed. Subclasses that inherit torch's forward, timm's
    `BatchNormAct2d` and what `register_norm` was told of keep what they do besides.

    Args:
        model: Any module, also one that is itself a BatchNorm, or a wrapper such as
            DistributedDataParallel; it is returned.
        preset: `"paper"` for the paper's literal text.
        **options: `momentum` or `decay`, `source`, `stats_grad`, `running_stat`,
            `unlabeled_weight`, `skip_nonfinite`, `keep_graph`, as in `UnsupervisedBatchNorm2d`;
            they go before the preset's. What is not given stays as it is.

    Raises:
        ValueError: An unknown preset, a value that is not allowed for a layer, or a layer with an
            attribute of the user's that has the name of one of UBN's.
        TypeError: An unknown option; or a model that cannot be converted, since torch.jit has
            compiled it or a lazy BatchNorm of it has yet to see its first input.
        RuntimeError: The model is inside a UBN step.

    Warns:
        UserWarning: Layers are left as they are, with their names: of a class with a forward of
            its own that is not registered, parametrized, or with a `forward` that was replaced.

    Example:
        >>> import torch
        >>> from ubnlib import convert_ubn
        >>> norm = convert_ubn(torch.nn.BatchNorm2d(8), stats_grad="none")
        >>> norm  # doctest: +ELLIPSIS
        UnsupervisedBatchNorm2d(8, eps=1e-05, momentum=0.1, ..., stats_grad='none')
        >>> convert_ubn(norm, decay=0.75).momentum, norm.stats_grad
        (0.25, 'none')
    """
    if preset not in (None, "paper"):
        raise ValueError(f"preset is {preset!r}: it must be 'paper' or None.")
    chosen = (PAPER if preset else {}) | options
    if "momentum" in options and "decay" not in options:
        chosen.pop("decay", None)
    norms = _named(model, _BatchNorm)
    _refuse_unconvertible(model, norms)
    layers = _changeable(norms, _ubn_class, "convert_ubn")
    twins = []  # UBN layers with the contents of these: what is refused is so before any change
    for layer in layers:
        kind = _ubn_class(type(layer))
        twin = kind.__new__(kind)
        vars(twin).update(vars(layer))
        twin.configure(**chosen)
        vars(twin)[MOMENTA] = (_momentum_without_ubn(layer), twin.momentum)
        twins.append(twin)
    for layer, twin in zip(layers, twins, strict=True):
        layer.__class__ = type(twin)
        vars(layer).update(vars(twin))
    return model


def revert_ubn(model: Model) -> Model:
    """Turn every UBN layer of a model back into plain batch normalization, in place.

    The inverse of `convert_ubn`: `revert_ubn(convert_ubn(model, ...))` is the model in every
    attribute, whatever the options and however often it was converted. What was trained stays,
    and so does a momentum that was set on a layer after it was converted. Layers made as UBN become
    the BatchNorm of the same settings. The model, a layer itself or without any, is returned.

    Raises:
        RuntimeError: The model is inside a UBN step; nothing has changed.

    Warns:
        UserWarning: Layers are left as they are, as in `convert_ubn`.
    """
    ubn = _named(model, UnsupervisedBatchNorm)
    for layer in _changeable(ubn, BN_OF.get, "revert_ubn"):
        layer.momentum = _momentum_without_ubn(layer)
        for name in (*SWITCHES, *STEP_STATE, MOMENTA):
            vars(layer).pop(name, None)
        layer.__class__ = BN_OF[type(layer)]
    return model


def _named(model: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    """Return the modules of a kind by their names, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def _owner(kind: type) -> type:
    """Return the class that a class has its forward from."""
    return next(base for base in kind.__mro__ if "forward" in vars(base))


def _ubn_class(kind: type) -> type | None:
    """Return what layers of a class become; None where what they do is not known."""
    if kind in UBN_OF or issubclass(kind, UnsupervisedBatchNorm):
        return UBN_OF.get(kind, kind)
    owner = _owner(kind)
    key = owner if owner in BEHIND else (owner.__module__.partition(".")[0], owner.__name__)
    if key not in BEHIND:
        return None
    if kind.__call__ is not nn.Module.__call__ or kind.__new__ is not object.__new__:
        return None  # it does more than its forward says, as sharded layers do
    UBN_OF[kind] = ubn = _derived(kind, BEHIND[key])
    BN_OF[ubn] = kind
    return ubn


def _derived(kind: type, behind: Behind | None) -> type:
    """Return a subclass of both `kind` and UBN's class, which `kind` then has as its `super()`."""
    base = next(ubn for bn, ubn in TORCH.items() if issubclass(kind, bn))

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return behind(self, base.forward(self, x), *args, **kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> tuple[Any, ...]:
        return _blank, (kind,), self.__getstate__()  # pickle would look for the class by its name

    body = {"__doc__": kind.__doc__, "__module__": kind.__module__, "__reduce_ex__": __reduce_ex__}
    if behind:
        body["forward"] = forward
    return type(f"Unsupervised{kind.__name__}", (kind, base), body)


def _blank(kind: type) -> nn.Module:
    """Return a converted layer of a class, without contents."""
    ubn = _ubn_class(kind)
    if ubn is None:
        raise TypeError(
            f"A converted {kind.__name__} is to be loaded and is not known here: say "
            "register_norm with it first, as where it was saved."
        )
    return ubn.__new__(ubn)


def _changeable(
    layers: Mapping[str, nn.Module], becomes: Callable[[type], type | None], verb: str
) -> list[nn.Module]:
    """Return the layers whose class can change; warn of the others, once."""
    if any(getattr(layer, "_step", None) is not None for layer in layers.values()):
        raise RuntimeError(f"A UBN step is under way in this model: call {verb} outside of it.")
    changeable, left = [], defaultdict(list)
    for name, layer in layers.items():
        if "forward" in vars(layer):
            left[type(layer), "its forward was replaced"].append(name)
        elif is_parametrized(layer) and becomes(type(layer)) is not type(layer):
            left[type(layer), "it is parametrized"].append(name)
        elif becomes(type(layer)) is None:
            left[type(layer), "its class is not registered"].append(name)
        else:
            changeable.append(layer)
    groups = []
    for (kind, why), names in left.items():
        some = ", ".join(name or "the model" for name in names[:NAMED])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        groups.append(f"{some}{more} ({kind.__name__}: {why})")
    if groups:
        warnings.warn(
            f"{verb} leaves {len(layers) - len(changeable)} of {len(layers)} layers as they are: "
            f"{'; '.join(groups)}. See register_norm for classes with a forward of their own; call "
            f"{verb} before you parametrize, wrap or patch a layer.",
            stacklevel=3,
        )
    return changeable


def _momentum_without_ubn(layer: nn.Module) -> float | None:
    """Return the momentum from before convert_ubn, unless another was set since."""
    before, given = vars(layer).get(MOMENTA, (layer.momentum, layer.momentum))
    return before if layer.momentum == given else layer.momentum


def _refuse_unconvertible(model: nn.Module, norms: Mapping[str, nn.Module]) -> None:
    """Raise where converting would fail, or would silently be in vain."""
    known = (*UBN_OF, *BEHIND)
    names = {kind[1] if isinstance(kind, tuple) else kind.__name__ for kind in known}
    for name, module in _named(model, torch.jit.ScriptModule).items():
        if module is model or module.original_name in names:
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
        changes = _ubn_class(type(norm)) not in (None, type(norm))
        taken = [own for own in sorted(UBN_NAMES) if changes and hasattr(norm, own)]
        if taken:
            raise ValueError(f"{where} has attributes that UBN needs: rename {', '.join(taken)}.")
