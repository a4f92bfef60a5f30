"""Batches that are tensors, or trees of tensors: mappings, tuples, lists, dataclasses."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to the leaves of trees of the same structure, and return such a tree.

    Raises:
        ValueError: The structures differ.
    """
    if isinstance(tree, Mapping):
        if any(not isinstance(other, Mapping) or set(other) != set(tree) for other in others):
            raise ValueError(_differ(tree, others[0]))
        items = {k: tree_map(function, v, *(other[k] for other in others)) for k, v in tree.items()}
        return type(tree)(items) if type(tree) is not dict else items
    if isinstance(tree, (tuple, list)):
        if any(type(other) is not type(tree) or len(other) != len(tree) for other in others):
            raise ValueError(_differ(tree, others[0]))
        parts = [tree_map(function, *some) for some in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        if any(type(other) is not type(tree) for other in others):
            raise ValueError(_differ(tree, others[0]))
        names = [field.name for field in dataclasses.fields(tree) if field.init]
        changed = {
            name: tree_map(function, *(getattr(one, name) for one in (tree, *others)))
            for name in names
        }
        return dataclasses.replace(tree, **changed)
    return function(tree, *others)


def _differ(one: Any, other: Any) -> str:
    def describe(tree: Any) -> str:
        if isinstance(tree, Mapping):
            return f"{type(tree).__name__} with the keys {sorted(map(str, tree))}"
        length = f" of {len(tree)}" if isinstance(tree, (tuple, list)) else ""
        return f"{type(tree).__name__}{length}"

    return (
        f"The labeled batch has a {describe(one)} where the unlabeled one has a {describe(other)}: "
        "both pass through the same model and must have the same structure."
    )


def rows_of(tree: Any) -> list[Tensor]:
    """Return a tree's tensors with rows, in their order."""
    found: list[Tensor] = []
    tree_map(lambda leaf: found.append(leaf) if _has_rows(leaf) else None, tree)
    return found


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def number_of_rows(tree: Any, what: str) -> int:
    """Return how many rows a batch has.

    Raises:
        ValueError: It has no tensor with rows, or two that differ in their number.
    """
    numbers = {len(tensor) for tensor in rows_of(tree)}
    if len(numbers) != 1:
        found = f"tensors of {sorted(numbers)} rows" if numbers else "no tensor with rows"
        raise ValueError(f"The {what} batch has {found}: all of its tensors must have one a row.")
    return numbers.pop()


def same_shapes(labeled: Any, unlabeled: Any) -> bool:
    """Tell whether the rows of two batches have the same shapes, so that they can be joined.

    Raises:
        ValueError: The batches differ in structure, in a dtype, a device or a number of dimensions,
            or in an entry that is no tensor with rows and so belongs to both.
    """
    alike = []

    def compare(ours: Any, theirs: Any) -> None:
        if not (_has_rows(ours) and _has_rows(theirs)):
            equal = ours is theirs or (
                type(ours) is type(theirs) and bool((ours == theirs) is True)
            )
            if isinstance(ours, Tensor) and isinstance(theirs, Tensor) and not equal:
                equal = ours.dim() == theirs.dim() == 0 and bool(torch.equal(ours, theirs))
            if not equal:
                raise ValueError(
                    f"The labeled batch has {ours!r} where the unlabeled one has {theirs!r}: what "
                    "is no tensor with rows is the same for all rows."
                )
            return
        for what in ("dtype", "device"):
            one, other = getattr(ours, what), getattr(theirs, what)
            if one != other:
                raise ValueError(
                    f"The labeled rows have {what} {one} and the unlabeled ones {other}: both "
                    "pass through the same model and must agree."
                )
        if ours.dim() != theirs.dim():
            raise ValueError(
                f"The labeled rows have shape {tuple(ours.shape[1:])} and the unlabeled ones "
                f"{tuple(theirs.shape[1:])}: both pass through the same model and must agree in "
                "the number of dimensions."
            )
        alike.append(ours.shape[1:] == theirs.shape[1:])

    tree_map(compare, labeled, unlabeled)
    return all(alike)


def concatenate(labeled: Any, unlabeled: Any) -> Any:
    """Return the combined batch: first the labeled rows, then the unlabeled ones."""
    return tree_map(lambda x, y: torch.cat([x, y]) if _has_rows(x) else x, labeled, unlabeled)


def split(output: Any, labeled: int, unlabeled: int) -> tuple[Any, Any]:
    """Divide a model's output for the combined batch into that for either part.

    Raises:
        ValueError: A tensor in it does not have one entry a row.
    """

    def part(begin: int, end: int) -> Callable[[Any], Any]:
        def cut(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if leaf.dim() == 0 or len(leaf) != labeled + unlabeled:
                raise ValueError(
                    f"The model gives a tensor of shape {tuple(leaf.shape)} for {labeled} labeled "
                    f"and {unlabeled} unlabeled rows, which cannot be divided by rows: say "
                    "interleave=True, with which each part has an output of its own."
                )
            return leaf[begin:end]

        return cut

    return (
        tree_map(part(0, labeled), output),
        tree_map(part(labeled, labeled + unlabeled), output),
    )
