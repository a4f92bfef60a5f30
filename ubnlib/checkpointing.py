"""Which activation checkpoint a layer is called in, so that its second forward is told apart."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

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
    if torch.compiler.is_compiling():
        return None
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
