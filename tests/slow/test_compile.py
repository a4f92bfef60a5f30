"""torch.compile, activation checkpointing and torch.export."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ubnlib import convert_ubn, statistics_gap, ubn_forward
from ubnlib.forward import side_by_side, two_passes

OPTIONS = [
    dict(),
    dict(stats_grad="none", momentum=None),
    dict(stats_grad="labeled"),
    dict(stats_grad="all"),
    dict(source="running", momentum=None, running_stat="std"),
    dict(unlabeled_weight=0.7),
    dict(skip_nonfinite=False),
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, bias=False),
        nn.BatchNorm2d(5),
    )


class Checkpointed(nn.Module):
    """The same network with its first half recomputed in backward."""

    def __init__(self, net, reentrant):
        super().__init__()
        self.net, self.reentrant = net, reentrant

    def forward(self, x):
        x = checkpoint(self.net[:3], x, use_reentrant=self.reentrant)
        return self.net[3:](x)


def rows(n, seed):
    return torch.randn(n, 3, 9, 8, generator=torch.Generator().manual_seed(seed))


def assert_same(ours, theirs):
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def train(model, x, y, forward, steps=2):
    for _ in range(steps):
        model.zero_grad()
        output = forward(model, x, y)
        output.sin().sum().backward()
    return output


@pytest.fixture(autouse=True)
def no_graphs_of_other_tests():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_both_steps_compile_as_one_graph_each(options):
    """Two layers once, and one with each option, which is a layer's own: graphs take long."""
    eager = convert_ubn(network()[:3] if options else network(), **options)
    inner = copy.deepcopy(eager)
    compiled = torch.compile(inner, fullgraph=True, backend="aot_eager")
    x, y = rows(3, 1), rows(5, 2)
    expected = train(eager, x, y, ubn_forward)
    torch.testing.assert_close(train(compiled, x, y, ubn_forward), expected)
    assert_same(inner, eager)
    # A second step with other numbers of rows, and the plain and the eval forward.
    x, y = rows(4, 3), rows(6, 4)
    expected = train(eager, x, y, ubn_forward)
    torch.testing.assert_close(train(compiled, x, y, ubn_forward), expected)
    torch.testing.assert_close(compiled.eval()(x), eager.eval()(x))
    if inner[1].momentum is not None:  # nn.BatchNorm itself cannot, with momentum=None
        torch.testing.assert_close(compiled.train()(x), eager.train()(x))


def test_a_model_compiled_in_place_is_known():
    eager = convert_ubn(network()[:3])
    compiled = copy.deepcopy(eager)
    compiled.compile(fullgraph=True, backend="aot_eager")
    x, y = rows(3, 1), rows(5, 2)
    expected = train(eager, x, y, ubn_forward)
    torch.testing.assert_close(train(compiled, x, y, ubn_forward), expected)
    assert_same(compiled, eager)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    ("options", "forward"),
    [
        (options, forward)
        for options in OPTIONS
        for forward in (side_by_side, two_passes)
        if options.get("stats_grad") != "all"
        and (options.get("source") != "running" or forward is two_passes)
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_checkpointing_changes_nothing(options, forward, reentrant):
    model = convert_ubn(network(), **options)
    again = Checkpointed(copy.deepcopy(model), reentrant)
    x, y = rows(3, 1).requires_grad_(), rows(5, 2)
    torch.testing.assert_close(train(again, x, y, forward), train(model, x, y, forward))
    assert_same(again, model)
    assert model[1].num_batches_tracked == 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_moves_no_average_twice_without_unlabeled_rows(reentrant):
    model = convert_ubn(network())
    again = Checkpointed(copy.deepcopy(model), reentrant)
    x = rows(3, 1).requires_grad_()
    train(model, x, None, ubn_forward)
    train(again, x, None, ubn_forward)
    assert_same(again, model)


def test_checkpointing_refuses_rows_of_an_earlier_step():
    model = Checkpointed(convert_ubn(network()), reentrant=False)
    first = side_by_side(model, rows(3, 1), rows(5, 2))
    side_by_side(model, rows(3, 3), rows(5, 4))
    with pytest.raises(RuntimeError, match="call backward before the next step"):
        first.sum().backward()


def test_checkpointing_finds_the_right_call_of_a_shared_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.checkpointed = False

        def block(self, x):
            return self.norm(self.linear(x)).relu()

        def forward(self, x):
            for _ in range(2):
                x = (
                    checkpoint(self.block, x, use_reentrant=False)
                    if self.checkpointed
                    else self.block(x)
                )
            return x

    model = convert_ubn(Twice())
    again = copy.deepcopy(model)
    again.checkpointed = True
    x, y = torch.randn(5, 4), torch.randn(7, 4)
    torch.testing.assert_close(train(again, x, y, side_by_side), train(model, x, y, side_by_side))
    assert_same(again, model)


def test_checkpointing_with_gradient_through_all_rows_is_refused():
    model = Checkpointed(convert_ubn(network(), stats_grad="all"), reentrant=False)
    with pytest.raises(RuntimeError, match="does not go with stats_grad"):
        side_by_side(model, rows(3, 1), rows(5, 2)).sum().backward()


def test_export_in_eval_mode():
    model = convert_ubn(network())
    ubn_forward(model, rows(3, 1), rows(5, 2))
    model.eval()
    exported = torch.export.export(model, (rows(4, 3),)).module()
    torch.testing.assert_close(exported(rows(4, 5)), model(rows(4, 5)))
    targets = [str(n.target) for n in torch.export.export(model, (rows(4, 3),)).graph.nodes]
    plain = torch.export.export(network().eval(), (rows(4, 3),)).graph.nodes
    assert targets == [str(n.target) for n in plain], "the graph is that of nn.BatchNorm"


@pytest.mark.parametrize("stats_grad", ["corrected", "none", "labeled", "all"])
def test_second_derivatives(stats_grad):
    """A gradient penalty goes through a step, as through nn.BatchNorm."""
    model = convert_ubn(nn.Sequential(nn.BatchNorm1d(3)), stats_grad=stats_grad).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 3, dtype=torch.float64)
    if stats_grad in ("labeled", "all"):
        assert torch.autograd.gradgradcheck(lambda x: side_by_side(model, x, y), (x,))
        return
    (grad,) = torch.autograd.grad(side_by_side(model, x, y).pow(3).sum(), x, create_graph=True)
    grad.square().sum().backward()
    # The oracle: the same values by plain operations, with the same quantities held constant.
    z, both = x.detach().clone().requires_grad_(), torch.cat([x.detach(), y])
    mean, sigma = both.mean(0), (both.var(0, correction=0) + 1e-5).sqrt()
    if stats_grad == "none":
        out = (z - mean) / sigma
    else:
        own = (z.var(0, correction=0) + 1e-5).sqrt()
        r, d = (own / sigma).detach(), ((z.mean(0) - mean) / sigma).detach()
        out = (z - z.mean(0)) / own * r + d
    (expected,) = torch.autograd.grad(out.pow(3).sum(), z, create_graph=True)
    expected.square().sum().backward()
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(x.grad, z.grad)


def test_the_last_step_holds_no_activations_after_backward():
    """Statistics outlive backward; the activations behind them do not."""
    import gc
    import weakref

    models, seen = {}, {}
    for stats_grad in ("corrected", "none", "labeled", "all"):
        models[stats_grad] = model = convert_ubn(network(), stats_grad=stats_grad)
        refs = seen[stats_grad] = []
        hook = model[1].register_forward_hook(
            lambda _, inputs, __, refs=refs: refs.append(weakref.ref(inputs[0].untyped_storage()))
        )
        side_by_side(model, rows(3, 1), rows(5, 2)).sum().backward()
        hook.remove()
    gc.collect()  # slow where a process holds much, so once
    for stats_grad, model in models.items():
        assert len(seen[stats_grad]) == 2
        assert not any(ref() for ref in seen[stats_grad]), stats_grad
        assert statistics_gap(model) > 0
