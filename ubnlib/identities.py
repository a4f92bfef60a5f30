"""Exact statements about the equations, measured in float64: how far is each from holding."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from ubnlib.convert import convert_ubn
from ubnlib.records import Config, Result, recorded
from ubnlib.steps import ubn_forward
from ubnlib.training import initialized_by


class IdentitiesConfig(Config):
    """A small convolutional net and random batches of labeled and unlabeled images."""

    experiment: Literal["identities"] = "identities"
    labeled: int = 4
    unlabeled: int = 12
    seed: int = 0


def example(config: IdentitiesConfig) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return a net with batch normalization, labeled rows and unlabeled rows, in float64."""
    with initialized_by(config.seed):
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)
        ).double()
        labeled = torch.randn(config.labeled, 3, 12, 12, dtype=torch.float64)
        unlabeled = 1 + 2 * torch.randn(config.unlabeled, 3, 12, 12, dtype=torch.float64)
    return net, labeled, unlabeled


@recorded
def run_identities(config: IdentitiesConfig) -> Result:
    """Measure the largest absolute difference of what should be equal."""
    net, labeled, unlabeled = example(config)
    differences = {"two_steps_vs_joint_pass": 0.0, "no_unlabeled_vs_batchnorm": 0.0}
    for stats_grad in ("corrected", "none", "labeled", "all"):
        joint, ubn = copy.deepcopy(net), convert_ubn(copy.deepcopy(net), stats_grad=stats_grad)
        together = joint(torch.cat([labeled, unlabeled]))[: len(labeled)]
        pairs = [(ubn_forward(ubn, labeled, unlabeled), together)]
        pairs += zip(ubn.buffers(), joint.buffers(), strict=True)
        _widen(differences, "two_steps_vs_joint_pass", pairs)

        plain, ubn = copy.deepcopy(net), convert_ubn(copy.deepcopy(net), stats_grad=stats_grad)
        outputs = ubn_forward(ubn, labeled, None), plain(labeled)
        for output in outputs:
            output.square().sum().backward()
        gradients = zip(ubn.parameters(), plain.parameters(), strict=True)
        pairs = [outputs, *((ours.grad, theirs.grad) for ours, theirs in gradients)]
        _widen(differences, "no_unlabeled_vs_batchnorm", pairs)
    return Result.of_one_seed(differences, {})


def _widen(differences: dict[str, float], name: str, pairs: list[tuple[Tensor, Tensor]]) -> None:
    largest = max((a - b).abs().max().item() for a, b in pairs)
    differences[name] = max(differences[name], largest)
