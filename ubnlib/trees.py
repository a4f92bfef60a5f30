"""Batches that are tensors, or trees of tensors: mappings, tuples, lists, dataclasses."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def _children(tree: Any) -> dict[Any, Any] | None:
    """Return a tree's branches by key, index or field; None for a leaf."""
    if isinstance(tree, Mapping):
        return dict(tree)
    if isinstance(tree, (tuple, list)):
        return dict(enumerate(tree))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree) if f.init}
    return None


def _branches(*trees: Any) -> dict[Any, tuple[Any, ...]] | None:
    """Return the branches of trees together; None for leaves, a ValueError if they differ."""
    children = [_children(tree) for tree in trees]
    if children[0] is None:
        return None
    for other, theirs in zip(trees[1:], children[1:], strict=True):
        if type(other) is not type(trees[0]) or set(theirs) != set(children[0]):
            raise ValueError(
                f"The labeled batch has {_described(trees[0])} where the unlabeled one has "
                f"{_described(other)}: both pass through the same model and must have the same "
                "structure."
            )
    return {key: tuple(each[key] for each in children) for key in children[0]}


def _leaves(*trees: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the leaves of trees of the same structure together."""
    branches = _branches(*trees)
    if branches is None:
        yield trees
    for branch in (branches or {}).values():
        yield from _leaves(*branch)


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to the leaves of trees of the same structure, and return such a tree."""
    branches, kind = _branches(tree, *others), type(tree)
    if branches is None:
        return function(tree, *others)
    mapped = {key: tree_map(function, *branch) for key, branch in branches.items()}
    if isinstance(tree, Mapping):
        return mapped if kind in (dict, defaultdict) else kind(mapped)
    if isinstance(tree, (tuple, list)):
        return kind(*mapped.values()) if hasattr(tree, "_fields") else kind(mapped.values())
    return dataclasses.replace(tree, **mapped)


def _described(tree: Any) -> str:
    keys = list(_children(tree) or ())
    if isinstance(tree, (int, float, str, type(None))) or getattr(tree, "ndim", 1) == 0:
        return repr(tree)[:60]
    size = f" of {len(keys)}" if isinstance(tree, (tuple, list)) else f" with the keys {keys}"
    return f"a {type(tree).__name__}{size if keys else ''}"


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def rows_of(tree: Any, what: str = "labeled") -> Tensor:
    """Return a batch's first tensor with rows; a ValueError if all have not the same number."""
    found = [leaf for (leaf,) in _leaves(tree) if _has_rows(leaf)]
    if len({len(tensor) for tensor in found}) != 1:
        numbers = sorted({len(tensor) for tensor in found})
        has = f"tensors of {numbers} rows" if found else "no tensor with rows"
        raise ValueError(f"The {what} batch has {has}: all of its tensors must have one a row.")
    return found[0]


def same_shapes(labeled: Any, unlabeled: Any) -> bool:
    """Tell whether the rows of two batches have the same shapes, so that they can be joined.

    A ValueError: they differ in structure, dtype, device or number of dimensions, or in an entry
    that is no tensor with rows and so belongs to both.
    """
    alike = True
    for ours, theirs in _leaves(labeled, unlabeled):
        if not (_has_rows(ours) and _has_rows(theirs)):
            arrays = hasattr(ours, "shape") or hasattr(theirs, "shape")
            equal = ours is theirs or (not arrays and ours == theirs)
            if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
                equal = ours.dim() == theirs.dim() == 0 and torch.equal(ours, theirs)
            if not equal:
                raise ValueError(
                    f"The labeled batch has {_described(ours)} where the unlabeled one has "
                    f"{_described(theirs)}: what is no tensor with rows belongs to both."
                )
            continue
        shapes = tuple(ours.shape[1:]), tuple(theirs.shape[1:])
        for what, one, other, agree in (
            ("dtype", ours.dtype, theirs.dtype, ours.dtype == theirs.dtype),
            ("device", ours.device, theirs.device, ours.device == theirs.device),
            ("shape", *shapes, ours.dim() == theirs.dim()),  # sizes may differ
        ):
            if not agree:
                raise ValueError(
                    f"The labeled rows have {what} {one} and the unlabeled ones {other}: both "
                    "pass through the same model and must agree."
                )
        alike &= ours.shape[1:] == theirs.shape[1:]
    return alike


def concatenate(labeled: Any, unlabeled: Any) -> Any:
    """Return the combined batch: first the labeled rows, then the unlabeled ones."""
    return tree_map(lambda x, y: torch.cat([x, y]) if _has_rows(x) else x, labeled, unlabeled)


_OF_BOTH = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def split(output: Any, labeled: int, unlabeled: int) -> tuple[Any, Any]:
    """Divide a model's output for the combined batch into that for either part.

    Other rows in it, or objects that may have rows inside, are a ValueError.
    """

    def cut(leaf: Any, part: slice) -> Any:
        if isinstance(leaf, _OF_BOTH):
            return leaf
        if not _has_rows(leaf) or len(leaf) != labeled + unlabeled:
            shape = f" of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else ""
            raise ValueError(
                f"The model gives a {type(leaf).__name__}{shape} for {labeled} labeled and "
                f"{unlabeled} unlabeled rows, which cannot be divided by rows: say "
                "interleave=True, with which each part has an output of its own."
            )
        return leaf[part]

    parts = slice(0, labeled), slice(labeled, None)
    return tuple(tree_map(lambda leaf, part=part: cut(leaf, part), output) for part in parts)
