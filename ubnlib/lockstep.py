"""Both halves of a UBN step through a model at once, meeting at every UBN layer.

The labeled rows' forward pass is the same in step 1 and step 2, and the unlabeled rows' pass
needs no gradient. So each half passes once: the labeled half in the caller's thread, and the
unlabeled half in a second thread. Only one of them runs at any time, and the unlabeled half goes
first from layer to layer: so the order is always the same, and what a hook or an attribute holds
in the end is of the labeled rows. Each half has random states, attributes and weights of its own.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import is_
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._device import DeviceContext

from ubnlib.functional import Statistics

PATHS_DIFFER = (
    "The labeled and the unlabeled rows reach different UBN layers, or the same ones in another "
    "order: both must take the same path through the model."
)


class _Abandoned(BaseException):
    """Takes the unlabeled half out of the model when the labeled half has failed."""


class _Own:
    """What each half has of its own: random states, cached weights, and the modules' `stores`."""

    def __init__(self, device: torch.device, stores: list[dict[str, Any]]) -> None:
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._generators.append(torch.cuda.default_generators[index])
        seed = int(torch.randint(2**62, (), device="cpu"))
        new = [torch.Generator(g.device).manual_seed(seed) for g in self._generators]
        self._states = [generator.get_state() for generator in new]
        self._cache: tuple[dict[Any, Any], int] = {}, 0
        self._stores, self._contents = stores, [dict(store) for store in stores]
        self._given = [dict(store) for store in stores]  # to the half that runs
        self.unlabeled = False

    def use(self, unlabeled: bool) -> None:
        """Let one of the halves run."""
        if unlabeled == self.unlabeled:
            return
        states = [generator.get_state() for generator in self._generators]
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)
        cache = parametrize._cache, parametrize._cache_enabled
        parametrize._cache, parametrize._cache_enabled = self._cache
        for i, (store, others) in enumerate(zip(self._stores, self._contents, strict=True)):
            if len(store) == len(others) and all(map(is_, store.values(), others.values())):
                continue
            self._contents[i] = mine = dict(store)
            for name, value in mine.items():  # what is made once is shared, and that it is made
                made = isinstance(value, nn.Parameter) and others.get(name) is None
                told = isinstance(value, bool) and value is not self._given[i].get(name)
                if made or (told and not unlabeled):
                    others[name] = value
            self._given[i] = dict(others)
            store.update(others)  # not cleared first: at Ctrl-C here, no weight is missing
            for name in mine.keys() - others.keys():
                del store[name]
        self._states, self._cache, self.unlabeled = states, cache, unlabeled


class Lockstep:
    """The two halves of one step: whose turn it is, and what the waiting one has to say."""

    def __init__(self, device: torch.device, stores: list[dict[str, Any]]) -> None:
        self.unlabeled_output: Any = None
        self._own = _Own(device, stores)
        self._thread: threading.Thread | None = None  # of the unlabeled half
        self._turns = {True: threading.Semaphore(0), False: threading.Semaphore(0)}  # unlabeled?
        self._waiting: tuple[nn.Module, Statistics] | None = None  # of the unlabeled half
        self._result: Any = None
        self._finished = self._abandoned = False
        self._error: BaseException | None = None

    def in_unlabeled_half(self) -> bool:
        """Whether the code that asks runs for the unlabeled rows."""
        return threading.current_thread() is self._thread

    def meet(
        self, layer: nn.Module, own: Statistics, combine: Callable[[Statistics, Statistics], Any]
    ) -> Any:
        """Return, in both halves, what `combine` makes of their statistics, the labeled's first."""
        if self.in_unlabeled_half():
            self._waiting = layer, own
            self._pass_turn(unlabeled=True)
            return self._result
        if self._thread is None:  # there are no unlabeled rows
            return combine(own, own.empty())
        if self._waiting is None or self._waiting[0] is not layer:
            raise RuntimeError(PATHS_DIFFER)
        other, self._waiting = self._waiting[1], None
        self._result = combine(own, other)
        self._pass_turn(unlabeled=False)
        return self._result

    def _pass_turn(self, unlabeled: bool) -> None:
        """Let the other half run until it passes the turn back."""
        self._own.use(unlabeled=not unlabeled)
        self._turns[not unlabeled].release()
        try:
            self._turns[unlabeled].acquire()
        except BaseException:  # at Ctrl-C, the labeled half leaves the model when the other rests
            while self._own.unlabeled:
                time.sleep(1e-3)
            raise
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
                    self.unlabeled_output = unlabeled_half()
            except _Abandoned:
                return
            except BaseException as error:
                self._error = error
            finally:
                self._finished = True
                self._own.use(unlabeled=False)
                self._turns[False].release()

        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(work,), name="ubn-unlabeled-half")
        self._thread.start()
        try:
            self._pass_turn(unlabeled=False)
            yield
            if not self._finished:  # it waits at a layer that the labeled half does not reach
                raise RuntimeError(PATHS_DIFFER)
        except BaseException:
            self._abandoned = True
            self._own.use(unlabeled=True)
            self._turns[True].release()
            raise
        finally:
            self._thread.join()
            self._own.use(unlabeled=False)


def in_same_setting(function: Callable[[], Any], device: torch.device, grad: bool) -> Callable:
    """Let a function run in another thread as torch is set in this one, but for the gradient."""
    home = torch.get_default_device()
    settings = [home] if home.type != "cpu" else []
    if device.type == "cuda":
        stream = torch.cuda.current_stream(device)
        settings += [torch.cuda.device(device), torch.cuda.stream(stream)]
    settings += [  # a cache would keep weights cast without gradient for the labeled half
        torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False)
        for kind in {"cpu", device.type}
        if torch.is_autocast_enabled(kind)
    ]
    settings.append(torch.inference_mode(torch.is_inference_mode_enabled()))
    cores = torch.get_num_threads()

    def run() -> Any:
        torch.set_num_threads(cores)  # convolutions in a new thread would take all
        with ExitStack() as stack:
            for setting in settings:
                stack.enter_context(setting)
            with torch.set_grad_enabled(grad):
                return function()

    return run


def modes_of_this_thread() -> str:
    """Name what torch keeps for this thread alone and a second thread would miss; "" if nothing."""
    found = {
        "a torch function mode": any(
            not isinstance(mode, DeviceContext)
            for mode in torch.overrides._get_current_function_mode_stack()
        ),
        "a dispatch mode": torch._C._len_torch_dispatch_stack() > 0,
        "a profiler": torch.autograd._profiler_enabled(),
        "saved-tensor hooks": torch._C._autograd._top_saved_tensors_default_hooks(True) is not None,
    }
    return next((name for name, there in found.items() if there), "")
