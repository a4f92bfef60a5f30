"""Which activation checkpoint a layer is called in, so that its second forward is told apart."""

import weakref
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ubnlib.functional import Moments, batch_statistics

try:
    from torch.utils.checkpoint import _CheckpointFrame
except ImportError:  # another torch: layers then compare the rows alone
    _CheckpointFrame = ()

unseen = _disable_current_modes  # for what selective checkpointing must not count


def region() -> Any:
    """Return what torch keeps of the checkpoint that runs, the same in both of its forwards.

    None outside a checkpoint, and in one with `use_reentrant=True`, of which nothing is kept. Torch
    has no public name for it: the innermost saved-tensor hooks hold it.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is None:
        return None
    pack = getattr(hooks[0], "_torchdynamo_orig_callable", hooks[0])
    for cell in getattr(pack, "__closure__", None) or ():
        held = cell.cell_contents
        held = held() if isinstance(held, weakref.ref) else held
        if isinstance(held, _CheckpointFrame):
            return held
    return None


def in_backward() -> bool:
    """Whether autograd is going backward, where only activation checkpointing calls a layer."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class Seen:
    """What a layer's calls saw, to know their rows again when a checkpoint computes them anew.

    Of a plain call these are its moments, and of a UBN step's its `Call`.
    """

    def __init__(self) -> None:
        self._by_region: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
        # Of calls in no known region: since the last step began, and before it.
        self._plain: tuple[tuple[Moments, ...], tuple[Moments, ...]] = (), ()
        self._steps: tuple[tuple[Any, ...], tuple[Any, ...]] = (), ()
        self._asked = False  # whether a backward pass came back to these steps

    def begin_step(self) -> None:
        """Forget what is two steps old, and steps that went backward."""
        self._plain = (), self._plain[0] or self._plain[1]
        steps = (
            () if self._asked else self._steps[0] or self._steps[1]
        )  # of the last that noted any
        self._steps, self._asked = ((), steps), False

    def note(self, x: Tensor, call: Any) -> None:
        """Note a UBN step's `Call`, or None for a plain call of rows x, if it may be made again."""
        where = region()
        if call is not None:
            seen = call.detach()
        elif where is not None or not torch.is_grad_enabled():  # perhaps with use_reentrant=True
            with unseen():
                seen = batch_statistics(x, differentiable=False).moments
        else:
            return
        if where is not None:
            self._by_region.setdefault(where, []).append(seen)
        elif call is not None:
            self._steps = (*self._steps[0], seen), self._steps[1]
        else:
            self._plain = (*self._plain[0][-63:], seen), self._plain[1]

    def recall(self, own: Moments) -> Any:
        """Return the call that is made once more, with rows of these moments."""
        where = region()
        if where is not None and where in self._by_region:
            noted = self._by_region[where]
        else:  # use_reentrant=True, or a checkpoint within one that is computed again
            noted = list(chain(*self._plain, *self._steps, *self._by_region.values()))
            self._asked = True
        alike = [seen for seen in noted if _alike(getattr(seen, "own", seen), own)]
        steps = [seen for seen in alike if not isinstance(seen, Moments)]
        if not steps and (alike or all(isinstance(seen, Moments) for seen in noted)):
            return None
        if not steps:
            raise RuntimeError(
                "Activation checkpointing computes rows again that are not those of the last UBN "
                "step: call backward before the next step, or say use_reentrant=False."
            )
        references = [call.reference for call in steps]
        if len(steps) < len(alike) or not all(_alike(r, references[0]) for r in references):
            raise RuntimeError(
                "Activation checkpointing computes rows again that passed through a layer twice, "
                "in a UBN step and outside or in two of them: say use_reentrant=False, without a "
                "checkpoint around others or around both."
            )
        return steps[0]


def _alike(one: Moments, other: Moments) -> bool:
    """Whether two moments are those of the same rows, but for rounding."""
    slack = 1e-4 * one.var.sqrt() + 1e-5 * one.mean.abs()
    means = ((one.mean - other.mean).abs() <= slack).all()
    return bool(means and ((one.var - other.var).abs() <= 1e-3 * one.var + 1e-12).all())
