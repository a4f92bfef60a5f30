"""What all training runs share: the normalization's configuration, batches and seeds."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.common.records import Config
from ubnlib.batchnorm import RunningStat, Source, StatsGrad
from ubnlib.convert import convert_ubn


class BNConfig(Config):
    """Train with plain batch normalization."""

    kind: Literal["bn"] = "bn"
    momentum: float = 0.1

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model, built with batch normalization, with these settings."""
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = self.momentum
        return model


class UBNConfig(Config):
    """Train with UBN; the switches are those of the layers."""

    kind: Literal["ubn"] = "ubn"
    source: Source = "batch"
    stats_grad: StatsGrad = "corrected"
    running_stat: RunningStat = "var"
    momentum: float = 0.1

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model, built with batch normalization, with UBN instead."""
        return convert_ubn(model, **self.model_dump(exclude={"kind"}))


NormConfig = Annotated[BNConfig | UBNConfig, Field(discriminator="kind")]


def random_batches(size: int, of: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield index batches [size] without end; every epoch visits all `of` items in new order.

    Batches run across the borders of epochs, so that none is short, also where `of` < `size`.
    """
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < size:
            left = torch.cat([left, torch.randperm(of, generator=generator)])
        yield left[:size]
        left = left[size:]


@contextmanager
def initialized_by(seed: int) -> Iterator[None]:
    """Draw the weights of models built inside from a seed; torch's global state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model into eval mode without gradients, and back into its mode."""
    training = model.training
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        model.train(training)
