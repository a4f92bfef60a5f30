"""How wrong the statistics of a training step are: the bias of which section 3.3 speaks."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.toy.ensemble import Ensemble
from experiments.toy.spiral import SpiralData
from experiments.toy.train import SpiralTraining, random_batch
from ubnlib.batchnorm import Call
from ubnlib.convert import convert_ubn
from ubnlib.forward import collecting, ubn_layers, using


class StatisticsError(NamedTuple):
    """How wrong the statistics of training steps are for the population, in one layer: [E] each.

    A step normalizes a layer's inputs by mu and sigma of its batch. The population, normalized in
    the same way up to there, has other ones. The error of the mean is
    (mu - mu_population) / sigma_population, that of the scale log(sigma / sigma_population), where
    sigma^2 = variance + eps is what the layer divides by. The bias is what the errors of all steps
    have in common, the spread is how they vary from step to step: mean square error =
    bias^2 + spread^2. Both are root mean squares over channels.

    By chance alone, batches of n random rows of m labeled ones, which are themselves drawn from the
    population, have errors of the first layer's means with a bias of about 1 / sqrt(m) and a spread
    of about 1 / sqrt(n), less where n is a large part of m.
    """

    mean_bias: Tensor
    mean_spread: Tensor
    scale_bias: Tensor
    scale_spread: Tensor


def statistics_errors(
    net: Ensemble, batches: Iterable[Tensor], population: Tensor
) -> list[StatisticsError]:
    """Return, for each layer, how wrong statistics are that should describe a population [M, E, 2].

    They are those of batches [N, E, 2] as training steps collect them; at least two.
    """
    model = convert_ubn(copy.deepcopy(net), source="batch", stats_grad="none").eval()
    layers = ubn_layers(model)
    for layer in layers:
        layer.train()  # and nothing else, so that nothing drops out
    means, scales = [], []  # of the batches: for each layer, errors [E * C]
    for batch in batches:
        with torch.no_grad(), collecting(model):
            model(batch)
        with torch.no_grad(), using(model):
            model(population)
        errors = [_errors(*layer.last_step, layer.eps) for layer in layers]
        means.append([mean for mean, _ in errors])
        scales.append([scale for _, scale in errors])
    if len(means) < 2:
        raise ValueError(
            f"The spread of statistics needs at least 2 batches, and there are {len(means)}."
        )
    return [
        StatisticsError(*_split(mean, net.members), *_split(scale, net.members))
        for mean, scale in zip(zip(*means, strict=True), zip(*scales, strict=True), strict=True)
    ]


def _errors(call: Call, eps: float) -> tuple[Tensor, Tensor]:
    """Return the errors of the means and of the scales, [E * C] each, of one call of a layer."""
    batch, population = call.union, call.labeled  # of step 1, and of step 2's rows
    var = population.var + eps
    return (batch.mean - population.mean) / var.sqrt(), ((batch.var + eps) / var).log() / 2


def _split(errors: Sequence[Tensor], members: int) -> tuple[Tensor, Tensor]:
    """Return bias and spread [E] of the errors [E * C] of each of S batches.

    The mean of S errors has a variance of its own, which is taken out of the squared bias.
    """
    each = torch.stack(list(errors)).double().unflatten(1, (members, -1))
    variance = each.var(0)
    bias = (each.mean(0) ** 2 - variance / len(each)).mean(-1).clamp_min(0)
    return bias.sqrt(), variance.mean(-1).sqrt()


def step_batches(config: SpiralTraining, data: SpiralData, count: int) -> Iterator[Tensor]:
    """Yield batches [N, E, 2] whose statistics a step would use: for UBN, also unlabeled points."""
    parts = [(data.labeled, config.labeled_batch)]
    if config.norm.kind == "ubn":
        parts.append((data.unlabeled, config.unlabeled_batch))
    generators = config.generators()
    for _ in range(count):
        yield torch.cat([random_batch(points, size, generators) for points, size in parts])
