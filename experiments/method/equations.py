"""Exact statements about the equations, measured in float64: how far is each from holding."""

import copy
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from experiments.common.records import Config, Result, recorded
from experiments.common.training import initialized_by
from ubnlib.batchnorm import UnsupervisedBatchNorm2d
from ubnlib.convert import convert_ubn
from ubnlib.forward import ubn_forward
from ubnlib.functional import batch_statistics, normalize

AVERAGED = 5  # batches
DECAY = 0.9  # the lambda of equations 2 and 3; the paper does not say it


class IdentitiesConfig(Config):
    """A small convolutional net and random batches of labeled and unlabeled images."""

    version: ClassVar[int] = 1
    experiment: Literal["identities"] = "identities"
    labeled: int = 4
    unlabeled: int = 12
    seed: int = 0


def make_net(norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.Sequential:
    """Make a net in float64 of [N, 3, 12, 12] to [N, 4, 8, 8]."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 4, 3), norm(4)
    ).double()


@recorded
def run_identities(config: IdentitiesConfig) -> Result:
    """Measure the largest absolute difference of what should be equal."""
    with initialized_by(config.seed):
        net = make_net()
        labeled = torch.randn(config.labeled, 3, 12, 12, dtype=torch.float64)
        unlabeled = 1 + 2 * torch.randn(config.unlabeled, 3, 12, 12, dtype=torch.float64)
    in_two_steps, without_unlabeled = [], []
    for stats_grad in ("corrected", "none", "labeled", "all"):
        joint, ubn = copy.deepcopy(net), convert_ubn(copy.deepcopy(net), stats_grad=stats_grad)
        together = joint(torch.cat([labeled, unlabeled]))[: len(labeled)]
        in_two_steps.append((ubn_forward(ubn, labeled, unlabeled), together))
        in_two_steps += zip(ubn.buffers(), joint.buffers(), strict=True)

        plain, ubn = copy.deepcopy(net), convert_ubn(copy.deepcopy(net), stats_grad=stats_grad)
        outputs = ubn_forward(ubn, labeled, None), plain(labeled)
        for output in outputs:
            output.square().sum().backward()
        gradients = zip(ubn.parameters(), plain.parameters(), strict=True)
        without_unlabeled += [outputs, *((ours.grad, theirs.grad) for ours, theirs in gradients)]
    differences = {
        "equation1_vs_batchnorm": _equation1(net[1], net[0](labeled).detach()),
        "averages_vs_equations": _equations2_and_3(config.seed, labeled, unlabeled),
        "two_steps_vs_joint_pass": largest(in_two_steps),
        "no_unlabeled_vs_batchnorm": largest(without_unlabeled),
    }
    return Result.of_one_seed(differences, {})


def _equation1(norm: nn.BatchNorm2d, x: Tensor) -> float:
    """Compare the library's equation 1 with torch's layer: outputs and their gradient in x."""
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    statistics = batch_statistics(ours).moments
    normalized = normalize(ours, statistics, norm.weight, norm.bias, norm.eps)
    outputs = normalized, copy.deepcopy(norm)(theirs)
    along = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)
    gradients = [torch.autograd.grad((output * along).sum(), of)[0]
                 for output, of in zip(outputs, (ours, theirs), strict=True)]  # fmt: skip
    return largest([outputs, tuple(gradients)])


def _equations2_and_3(seed: int, labeled: Tensor, unlabeled: Tensor) -> float:
    """Compare a layer's averages, of both kinds, with the equations written out over batches."""
    generator = torch.Generator().manual_seed(seed)
    scales = 0.5 + 2 * torch.rand(AVERAGED, generator=generator, dtype=labeled.dtype)
    pairs = []
    for running_stat, power in (("var", 2), ("std", 1)):  # torch's convention, and equation 3
        layer = UnsupervisedBatchNorm2d(3, decay=DECAY, running_stat=running_stat).double()
        mean, spread = torch.zeros(3).double(), torch.ones(3).double()
        for scale in scales:
            x, y = scale * labeled, scale * unlabeled
            ubn_forward(layer, x, y)
            n = torch.cat([x, y]).transpose(0, 1).flatten(1)  # [3, values]
            mean = DECAY * mean + (1 - DECAY) * n.mean(1)
            spread = DECAY * spread + (1 - DECAY) * n.std(1) ** power
        pairs += [(layer.running_mean, mean), (layer.running_var, spread ** (2 / power))]
    return largest(pairs)


def largest(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Return the largest absolute difference of tensors that should be equal."""
    return max((a - b).abs().max().item() for a, b in pairs)
