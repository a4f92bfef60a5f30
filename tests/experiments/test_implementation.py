"""The minimal implementation: its lines are counted rightly, and it is the whole method."""

import ast
import inspect

import pytest
import torch

from experiments.method import implementation, minimal
from experiments.method.equations import make_net
from experiments.method.implementation import ImplementationConfig, run_implementation
from experiments.method.minimal import MinimalUBN, two_steps
from oracle import oracle_forward


def metrics():
    record = run_implementation(ImplementationConfig(seed=0))
    return {name: value for name, (value,) in record.metrics.items()}


def test_its_lines_are_those_that_a_reader_counts():
    """Counted over the statements, one a line."""
    statements = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(minimal)))
        if isinstance(node, ast.stmt)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    code = {node.lineno for node in statements}
    simple = [node for node in statements if not hasattr(node, "body")]
    assert all(node.lineno == node.end_lineno for node in simple)  # none goes over several lines
    assert len(code) == len(statements)  # nor do two share one
    assert metrics()["code_lines"] == len(code)


def test_it_needs_torch_alone():
    names = [node for node in ast.walk(ast.parse(inspect.getsource(minimal)))
             if isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    assert {getattr(node, "module", None) or node.names[0].name for node in names} == {
        "torch", "torch.nn.functional",
    }  # fmt: skip


def test_it_is_the_papers_equations():
    """Against sums written once more from the paper, which know neither implementation."""
    torch.manual_seed(0)
    net = make_net(MinimalUBN)
    x, y = torch.randn(4, 3, 12, 12).double(), 1 + 2 * torch.randn(12, 3, 12, 12).double()
    expected, running = oracle_forward(net, x, y, stats_grad="none", running_stat="std")
    gradients = torch.autograd.grad(expected.square().sum(), list(net.parameters()))
    output = two_steps(net, x, y)
    ours = torch.autograd.grad(output.square().sum(), list(net.parameters()))
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-11)
    for a, b in zip(ours, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for norm, (mean, var) in zip((net[1], net[4]), running, strict=True):
        torch.testing.assert_close(norm.running_mean, mean, rtol=0, atol=1e-11)
        torch.testing.assert_close(norm.running_var, var, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("change", "metric"), [(dict(decay=0.8), "averages"), (dict(eps=1e-3), "outputs")]
)
def test_a_difference_would_show(monkeypatch, change, metric):
    class Wrong(MinimalUBN):
        def __init__(self, channels):
            super().__init__(channels)
            vars(self).update(change)

    monkeypatch.setattr(implementation, "MinimalUBN", Wrong)
    monkeypatch.setattr(minimal, "MinimalUBN", Wrong)
    found = metrics()
    assert found[metric] > 1e-4 and found["largest_difference"] > 1e-4
