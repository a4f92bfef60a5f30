"""Training that survives: precision, accumulation, several processes, progress and checkpoints.

The engine knows neither the model nor the data. A loss is a function of the model and of what the
loader hands out; the loader's order is a function of its step; so model, optimizer, gradient
scaler, loader's step, random states and curves are all of a run's state, and a run that was killed
goes on from its last checkpoint to the same end.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from experiments.common.records import Config
from experiments.depth.checkpoints import load_checkpoint, save_checkpoint
from experiments.depth.ranks import Ranks

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

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model in the wanted layout, compiled if that is wanted."""
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if self.compile:
            model.compile()
        return model


class Engine:
    """One run: its state, and the loop that moves it on.

    Args:
        model: On its device, in training mode, wrapped for its ranks.
        optimizer: Over the model's parameters.
        loss: Of the model and of one item of the loader; over the rows of all ranks where there
            are several, scaled so that the mean over ranks is the loss.
        loader: Has `step`, `steps`, `state_dict` and `load_state_dict`, and iterating goes on at
            `step`; one item is one micro-batch.
        config: How steps are computed.
        ranks: The processes that train.
        seed: Of layers that draw at random, such as dropout.

    Attributes:
        step: Optimizer steps made.
        curves: Numbers by name, each list in the order in which they came; `loss` has one a step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[nn.Module, Any], Tensor],
        loader: Any,
        config: EngineConfig,
        ranks: Ranks,
        seed: int = 0,
    ):
        self.model, self.optimizer, self.loader, self.loss = model, optimizer, loader, loss
        self.config, self.ranks, self.seed = config, ranks, seed
        self.step = 0
        self.curves: dict[str, list[float]] = {"loss": []}
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
        """Make the steps that are left.

        Args:
            observe: Called after each step, on the first rank, with the steps made so far; what it
                returns goes to the curves.
            checkpoint: File of the run's state. Where it exists the run goes on from it; it is
                written again when the time has come, and at the end.
            every_seconds: How much work may be lost.
            progress: Label of a progress bar; None shows none.

        Raises:
            FloatingPointError: The loss or the gradient is not finite; names the step, and the
                weights are those before it.
            ValueError: The checkpoint is damaged, or of another run.
        """
        if checkpoint is not None and checkpoint.exists():
            self._go_on_from(checkpoint)
        hidden = progress is None or not self.ranks.first
        bar = tqdm(total=self.steps, initial=self.step, desc=progress, leave=False, disable=hidden)
        saved = time.monotonic()
        with bar, self._drawing():
            for loss, images, seconds in self._optimizer_steps():
                self.step += 1
                self.curves["loss"].append(loss)
                if observe is not None and self.ranks.first:
                    for name, value in observe(self.step).items():
                        self.curves.setdefault(name, []).append(value)
                bar.update()
                bar.set_postfix_str(f"loss {loss:.3f}, {images / seconds:.0f} images/s")
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
            save_checkpoint(state, path)
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
        """Go on where another engine was.

        Raises:
            ValueError: The state is that of another order of the data or number of processes.
        """
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
        state = load_checkpoint(path)
        try:
            self.load_state_dict(state)
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            reason = (
                f"it has no {error}"
                if isinstance(error, KeyError)
                else " ".join(str(error).split())
            )
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
