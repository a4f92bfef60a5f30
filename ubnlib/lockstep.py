"""Both halves of a UBN step through a model at once, meeting at every UBN layer.

The labeled rows' forward pass is the same in step 1 and step 2, and the unlabeled rows' pass
needs no gradient. So each half passes once: the labeled half in the caller's thread, with
gradient, and the unlabeled half in a second thread, without. At every UBN layer they exchange
statistics. Only one of them runs at any time: the first to reach a layer waits there, and the
second goes on through it until the next one. So the order is always the same, draws of random
numbers included, and half of the activations are normalized while they are still in the cache.
"""

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ubnlib.functional import Statistics

PATHS_DIFFER = (
    "The labeled and the unlabeled rows reach different UBN layers, or the same ones in another "
    "order: both must take the same path through the model."
)


class _Abandoned(BaseException):
    """Takes the unlabeled half out of the model when the labeled half has failed."""


class Lockstep:
    """The two halves of one step: whose turn it is, and what the waiting one has to say."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None  # of the unlabeled half
        self._turns = {True: threading.Lock(), False: threading.Lock()}  # by: is it unlabeled?
        self._waiting: tuple[nn.Module, Statistics] | None = None
        self._result: Any = None
        self._finished = self._abandoned = False
        self._error: BaseException | None = None

    def in_unlabeled_half(self) -> bool:
        """Whether the code that asks runs for the unlabeled rows."""
        return threading.current_thread() is self._thread

    def meet(
        self, layer: nn.Module, own: Statistics, combine: Callable[[Statistics, Statistics], Any]
    ) -> Any:
        """Exchange this half's statistics at a layer with the other half's.

        The half that comes second calls `combine` with the labeled and the unlabeled rows'
        statistics; both halves get what it returns.
        """
        unlabeled = self.in_unlabeled_half()
        if self._thread is None:  # there are no unlabeled rows
            return combine(own, own.empty())
        if self._waiting is None:
            self._waiting = mine = (layer, own)
            if not self._finished:
                self._pass_turn(unlabeled)
            if self._waiting is mine:  # the other half never came
                raise RuntimeError(PATHS_DIFFER)
            return self._result
        (reached, other), self._waiting = self._waiting, None
        if reached is not layer:
            raise RuntimeError(PATHS_DIFFER)
        self._result = combine(*((other, own) if unlabeled else (own, other)))
        return self._result

    def _pass_turn(self, unlabeled: bool) -> None:
        """Let the other half run until it passes the turn back."""
        self._turns[not unlabeled].release()
        self._turns[unlabeled].acquire()
        if unlabeled and self._abandoned:
            raise _Abandoned
        if not unlabeled and self._error is not None:
            raise self._error

    @contextmanager
    def running(self, unlabeled_half: Callable[[], Any]) -> Iterator[None]:
        """Run the labeled half inside, and the unlabeled half with it."""

        def work() -> None:
            self._turns[True].acquire()
            try:
                if not self._abandoned:
                    unlabeled_half()
            except _Abandoned:
                pass
            except BaseException as error:
                self._error = error
            finally:
                self._finished = True
                if self._turns[False].locked():  # an interrupted labeled half does not wait
                    self._turns[False].release()

        for turn in self._turns.values():
            turn.acquire()
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(work,), name="ubn-unlabeled-half")
        self._thread.start()
        try:
            yield
            if self._waiting is not None:
                raise RuntimeError(PATHS_DIFFER)
            if not self._finished:
                self._pass_turn(unlabeled=False)
            if self._waiting is not None:
                raise RuntimeError(PATHS_DIFFER)
        except BaseException:
            self._abandoned = True
            if not self._finished:
                self._turns[True].release()
            raise
        finally:
            self._thread.join()


def in_same_setting(function: Callable[[], Any], device: torch.device, grad: bool) -> Callable:
    """Let a function run in another thread under the settings that torch keeps per thread.

    Whether gradients are recorded is said by `grad`, whatever this thread does.
    """
    # The cache would keep weights cast without gradient for the labeled half.
    autocasts = [
        dict(device_type=kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False)
        for kind in {"cpu", device.type}
        if torch.is_autocast_enabled(kind)
    ]
    inference, home = torch.is_inference_mode_enabled(), torch.get_default_device()
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def run() -> Any:
        with ExitStack() as stack:
            if home.type != "cpu":
                stack.enter_context(home)
            if stream is not None:
                stack.enter_context(torch.cuda.device(device))
                stack.enter_context(torch.cuda.stream(stream))
            for options in autocasts:
                stack.enter_context(torch.autocast(**options))
            stack.enter_context(torch.inference_mode(inference))
            stack.enter_context(torch.set_grad_enabled(grad))
            return function()

    return run
