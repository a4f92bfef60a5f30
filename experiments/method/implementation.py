"""How much code the paper's method takes: lines, and whether so few do what the library does."""

import ast
import inspect
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from experiments.common.records import Config, Result, recorded
from experiments.common.training import initialized_by
from experiments.method import minimal
from experiments.method.equations import largest, make_net
from experiments.method.minimal import MinimalUBN, two_steps
from ubnlib.convert import convert_ubn
from ubnlib.forward import ubn_forward


class ImplementationConfig(Config):
    """Training steps of a small convolutional net, by `minimal` and by the library."""

    version: ClassVar[int] = 1
    experiment: Literal["implementation"] = "implementation"
    labeled: int = 4
    unlabeled: int = 12
    steps: int = 5
    learning_rate: float = 0.05
    seed: int = 0


@recorded
def run_implementation(config: ImplementationConfig) -> Result:
    """Count the lines of `experiments.method.minimal`, and compare with the library's paper preset.

    Both train the same net on the same random batches in float64. Metrics: `code_lines`, without
    docstrings, comments and empty lines; the largest absolute difference, over all steps, of
    `outputs`, `gradients` and running `averages`, and `largest_difference` of all of these.
    """
    with initialized_by(config.seed):
        plain = make_net()
        shape = (config.steps, config.labeled + config.unlabeled, 3, 12, 12)
        batches = torch.randn(shape, dtype=torch.float64)
    ours, theirs = make_net(MinimalUBN), convert_ubn(make_net(), preset="paper")
    for net in (ours, theirs):
        net.load_state_dict(plain.state_dict())

    pairs = {"outputs": [], "gradients": [], "averages": []}
    for batch in batches:
        labeled, unlabeled = batch[: config.labeled], 1 + 2 * batch[config.labeled :]
        one = train_step(ours, two_steps, labeled, unlabeled, config.learning_rate)
        other = train_step(theirs, ubn_forward, labeled, unlabeled, config.learning_rate)
        for name, each in pairs.items():
            each += zip(one[name], other[name], strict=True)
    found = {name: largest(each) for name, each in pairs.items()}
    lines = code_lines(inspect.getsource(minimal))
    metrics = {"code_lines": float(lines), "largest_difference": max(found.values()), **found}
    return Result.of_one_seed(metrics, {})


def code_lines(source: str) -> int:
    """Return how many lines a module has without docstrings, comments and empty lines."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node):
            del node.body[0]
    return len([line for line in ast.unparse(tree).splitlines() if line])


Forward = Callable[[nn.Module, Tensor, Tensor], Tensor]


def train_step(
    net: nn.Module, forward: Forward, labeled: Tensor, unlabeled: Tensor, learning_rate: float
) -> dict[str, list[Tensor]]:
    """Make a step of gradient descent in place; return outputs, gradients and averages after it."""
    output = forward(net, labeled, unlabeled)
    target = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    loss = (output - target).square().mean()
    gradients = list(torch.autograd.grad(loss, list(net.parameters())))
    with torch.no_grad():
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter -= learning_rate * gradient
    averages = [b.clone() for name, b in net.named_buffers() if "running" in name]
    return {"outputs": [output.detach()], "gradients": gradients, "averages": averages}
