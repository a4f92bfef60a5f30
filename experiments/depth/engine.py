"""Training that survives: precision, accumulation, several processes, progress and checkpoints.

The engine knows neither the model nor the data. A loss is a function of the model and of what the
loader hands out; the loader's order is a function of its step; so model, optimizer, gradient
scaler, loader's step, random states and curves are all of a run's state, and a run that was killed
goes on from its last checkpoint to the same end.
"""

import math
import os
import pickle
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from experiments.common.files import first_error, whole
from experiments.common.records import Config

Model = TypeVar("Model", bound=nn.Module)

# --- states on disk -------------------------------------------------------------------------------

# What reading a damaged file raises, or one that holds something else.
DAMAGE = (OSError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, ValueError, LookupError,
          TypeError, RuntimeError)  # fmt: skip


def save_state(state: Any, path: Path) -> Path:
    """Write tensors, numbers and texts in dictionaries and lists; safe on the disk at the end."""
    with whole(path) as partial, partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    return path


def load_state(path: Path) -> Any:
    """Return what `save_state` wrote, tensors on the CPU; raises one of `DAMAGE`."""
    with zipfile.ZipFile(path) as archive:  # torch checks no checksums
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"its part {damaged} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_weights(model: Model, path: Path | str) -> Model:
    """Load the saved state of a model of the same layers, and return the model."""
    try:
        model.load_state_dict(load_state(Path(path)))
    except DAMAGE as error:
        raise ValueError(
            f"{path} does not hold the weights of this {type(model).__name__} "
            f"({first_error(error)}): name the file of this run's net, or train it anew."
        ) from error
    return model


# --- the processes that train one model together --------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a model whose gradients are averaged over the ranks."""
        if self.world == 1:
            return model
        # UBN keeps the averages alike on all ranks by itself.
        return DistributedDataParallel(model, broadcast_buffers=False)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, without gradient."""
        value = value.detach().clone()
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return a tensor of each rank, all of one shape, to all ranks."""
        if self.world == 1:
            return [value]
        here = value.to(self.device)
        every = [torch.empty_like(here) for _ in range(self.world)]
        dist.all_gather(every, here)
        return [one.cpu() for one in every]

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.world > 1:
            dist.barrier()


def alone() -> Ranks:
    """Return this process as the only one, on a GPU where there is one."""
    return Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started, each with a GPU of its own or on the CPU.

    Outside torchrun there is one process, this one.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield alone()
        return
    local = int(os.environ["LOCAL_RANK"])
    gpus = torch.cuda.device_count()
    if 0 < gpus <= local:
        raise RuntimeError(
            f"torchrun started process {local} on a machine with {gpus} GPUs: start one a GPU, "
            f"--nproc-per-node={gpus}."
        )
    device = torch.device("cuda", local) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpus else "gloo")
    try:
        yield Ranks(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()


# --- training -------------------------------------------------------------------------------------

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class EngineConfig(Config):
    """How steps are computed; none of it changes what is computed beyond rounding.

    But accumulation: each micro-batch is normalized by itself, as is usual.
    """

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    accumulate: int = Field(1, ge=1)  # micro-batches of an optimizer step
    passes: Literal["side by side", "two"] = "side by side"  # of a UBN step

    @classmethod
    def fastest(cls) -> "EngineConfig":
        """Return what this machine's processor multiplies fastest, of what trains alike.

        Without bfloat16 in hardware that is float32, which differs in more than the last digits: a
        claim's query names the precision, so that the two are never mixed.
        """
        if torch.cuda.is_available():
            hardware = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            hardware = torch.backends.mkldnn.is_available() and (
                torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            )
        return cls(precision="bf16" if hardware else "fp32", channels_last=True)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model in the wanted layout, compiled if that is wanted."""
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if self.compile:
            model.compile()
        return model


class Engine:
    """One run: its state, and the loop that moves it on.

    The loss is of the model and of one item of the loader, a micro-batch; over the rows of all
    ranks where there are several, scaled so that the mean over ranks is the loss. The loader has
    `step`, `steps`, `state_dict` and `load_state_dict`, and iterating goes on at `step`. The seed
    is that of layers that draw at random, such as dropout.
    """

    def __init__(
        self,
        model: nn.Module,  # on its device, in training mode, wrapped for its ranks
        optimizer: torch.optim.Optimizer,
        loss: Callable[[nn.Module, Any], Tensor],
        loader: Any,
        config: EngineConfig,
        ranks: Ranks,
        seed: int,
        rate: Callable[[float], float],  # by the share of steps made
    ):
        self.model, self.optimizer, self.loader, self.loss = model, optimizer, loader, loss
        self.config, self.ranks, self.seed, self.rate = config, ranks, seed, rate
        self.step = 0  # optimizer steps made
        self.curves: dict[str, list[float]] = {"loss": []}  # which has one number a step
        scaled = config.precision == "fp16" and ranks.device.type == "cuda"
        self._scaler = torch.amp.GradScaler(ranks.device.type, enabled=scaled)
        self._random: dict[str, list[Tensor]] | None = None  # of a checkpoint, until training

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.loader.steps // self.config.accumulate

    def train(
        self,
        *,
        observe: Callable[[int], Mapping[str, float]] | None = None,
        checkpoint: Path | None = None,
        every_seconds: float = 60.0,
        progress: str | None = None,
    ) -> None:
        """Make the steps that are left, with a progress bar under the label `progress`.

        `observe` is called after each step, on the first rank, with the steps made so far; what it
        returns goes to the curves. From the file `checkpoint` the run goes on where it exists; it
        is written `every_seconds`, and at the end.
        """
        if checkpoint is not None and checkpoint.exists():
            self._go_on_from(checkpoint)
        hidden = progress is None or not self.ranks.first
        pause = 0.1 if sys.stderr.isatty() else 30.0  # seconds: a log is read, not watched
        bar = tqdm(
            total=self.steps, initial=self.step, desc=progress, leave=False, disable=hidden,
            mininterval=pause, maxinterval=pause,
        )  # fmt: skip
        saved = time.monotonic()
        with bar, self._drawing():
            for loss, images, seconds in self._optimizer_steps():
                self.step += 1
                self.curves["loss"].append(loss)
                if observe is not None and self.ranks.first:
                    for name, value in observe(self.step).items():
                        self.curves.setdefault(name, []).append(value)
                bar.update()
                bar.set_postfix_str(
                    f"loss {loss:.3f}, {images / seconds:.0f} images/s", refresh=False
                )
                if checkpoint is not None and self._due(saved, every_seconds):
                    self.save(checkpoint)
                    saved = time.monotonic()

    def _optimizer_steps(self) -> Iterator[tuple[float, int, float]]:
        """Make step after step; yield the loss, the number of images and the seconds of each."""
        total, images, start = 0.0, 0, time.perf_counter()
        for data in self.loader:
            total += self._backward(data) / self.config.accumulate
            images += sum(len(part.images) for part in data if part is not None) * self.ranks.world
            if self.loader.step % self.config.accumulate:
                continue
            self._check(total)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(self.step / self.steps)
            self._scaler.step(self.optimizer)
            self._scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            now = time.perf_counter()
            yield total, images, now - start
            total, images, start = 0.0, 0, time.perf_counter()

    def _backward(self, data: Any) -> float:
        """Add a micro-batch's gradient, and return its loss over all ranks."""
        dtype = DTYPES[self.config.precision]
        device = self.ranks.device.type
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = self.loss(self.model, data)
        self._scaler.scale(loss / self.config.accumulate).backward()
        return self.ranks.total(loss).item() / self.ranks.world

    def _check(self, loss: float) -> None:
        """Refuse a step that would spoil the weights; a scaler leaves out such steps by itself."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        size = 0.0
        if not self._scaler.is_enabled():
            size = nn.utils.get_total_norm(gradients).item()
        if not (math.isfinite(loss) and math.isfinite(size)):
            raise FloatingPointError(
                f"The loss is {loss} and the gradient's norm {size} at step {self.step + 1}: lower "
                "the learning rate, or look at the data of this step."
            )

    def _due(self, saved: float, every_seconds: float) -> bool:
        """Whether to write a checkpoint now, which all ranks answer by the first one's clock."""
        due = self.step == self.steps or time.monotonic() - saved >= every_seconds
        if self.ranks.world == 1:
            return due
        mine = torch.tensor(float(due and self.ranks.first), device=self.ranks.device)
        return self.ranks.total(mine).item() > 0

    # --- state ----------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the run's state; all ranks must call it, and the first one writes."""
        state = self.state_dict()
        if self.ranks.first:
            save_state(state, path)
        self.ranks.wait()

    def state_dict(self) -> dict[str, Any]:
        """Return all of the run's state; all ranks must call it."""
        random = {"cpu": self.ranks.gather(torch.get_rng_state())}
        if self.ranks.device.type == "cuda":
            random["cuda"] = self.ranks.gather(torch.cuda.get_rng_state(self.ranks.device))
        return dict(
            step=self.step,
            model=self._bare.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self._scaler.state_dict(),
            loader=self.loader.state_dict(),
            random=random,
            curves=self.curves,
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another engine was."""
        processes = len(state["random"]["cpu"])
        if processes != self.ranks.world:
            raise ValueError(
                f"The state is that of {processes} processes, and there are {self.ranks.world}: "
                "start as many."
            )
        self.loader.load_state_dict(state["loader"])
        self._bare.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.step, self.curves = state["step"], dict(state["curves"])
        self._random = state["random"]

    def _go_on_from(self, path: Path) -> None:
        """Load a checkpoint, and say which file it is that does not fit."""
        try:
            state = load_state(path)
        except DAMAGE as error:
            raise ValueError(
                f"{path} is no whole checkpoint ({first_error(error)}): delete it, and the run "
                "starts anew."
            ) from error
        try:
            self.load_state_dict(state)
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else first_error(error)
            raise ValueError(
                f"{path} is the checkpoint of another run ({reason}): move it away, or delete it, "
                "and the run starts anew."
            ) from error

    @property
    def _bare(self) -> nn.Module:
        return self.model.module if self.ranks.world > 1 else self.model

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Draw random numbers of this run, and restore torch's generators at the end."""
        rank, device = self.ranks.rank, self.ranks.device
        cuda = device.type == "cuda"
        with torch.random.fork_rng([device] if cuda else []):
            if self._random is None:
                torch.manual_seed(self.seed * 1_000_003 + rank)
            else:
                torch.set_rng_state(self._random["cpu"][rank])
                if cuda:
                    torch.cuda.set_rng_state(self._random["cuda"][rank], device)
            yield
