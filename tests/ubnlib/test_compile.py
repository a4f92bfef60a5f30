"""torch.compile, activation checkpointing and torch.export; more options in tests/slow."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from small_nets import interleaved, network, objective, rows, train
from ubnlib import convert_ubn, statistics_gap, ubn_forward


class Checkpointed(nn.Module):
    """A net with its first half recomputed in backward."""

    def __init__(self, net, reentrant):
        super().__init__()
        self.net, self.reentrant = net, reentrant

    def forward(self, x):
        return self.net[3:](checkpoint(self.net[:3], x, use_reentrant=self.reentrant))


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("options", [{}, dict(stats_grad="labeled")], ids=str)
def test_both_steps_compile_as_one_graph_each(options, fresh_dynamo):
    eager = convert_ubn(network()[:3], **options)
    compiled = copy.deepcopy(eager)
    if options:
        compiled = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    else:  # in place
        compiled.compile(fullgraph=True, backend="aot_eager")
    x, y = rows(3, 1), rows(5, 2)
    expected = train(eager, x, y, ubn_forward)
    torch.testing.assert_close(train(compiled, x, y, ubn_forward), expected)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # unlabeled rows
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    ("options", "forward"),
    [
        (dict(), interleaved),
        (dict(), ubn_forward),
        (dict(), lambda model, x, y: ubn_forward(model, x, None)),  # no unlabeled rows
        (dict(stats_grad="none", momentum=None), interleaved),
        (dict(stats_grad="labeled"), ubn_forward),
        (dict(source="running", momentum=None, running_stat="std"), ubn_forward),
        (dict(unlabeled_weight=0.7), interleaved),
    ],
)
def test_checkpointing_changes_nothing(options, forward, reentrant):
    model = convert_ubn(network(), **options)
    again = Checkpointed(copy.deepcopy(model), reentrant)
    x, y = rows(3, 1).requires_grad_(), rows(5, 2)
    torch.testing.assert_close(train(again, x, y, forward), train(model, x, y, forward))
    assert model[1].num_batches_tracked == 2


def test_checkpointing_finds_the_right_call_of_a_shared_layer():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.call = lambda block, x: block(x)

        def block(self, x):
            return self.norm(self.linear(x)).relu()

        def forward(self, x):
            return self.call(self.block, self.call(self.block, x))

    model = convert_ubn(Twice())
    again = copy.deepcopy(model)
    again.call = lambda block, x: checkpoint(block, x, use_reentrant=False)
    x, y = torch.randn(5, 4), torch.randn(7, 4)
    torch.testing.assert_close(train(again, x, y, interleaved), train(model, x, y, interleaved))


@pytest.mark.parametrize("forward", [ubn_forward, interleaved])
def test_backward_of_a_step_that_another_one_follows(forward):
    """Torch knows a checkpoint again, but nothing of one with use_reentrant=True."""
    x, y = rows(3, 1).requires_grad_(), rows(5, 2)
    grads = []
    for reentrant in (None, False, True):
        model = convert_ubn(network())
        again = model if reentrant is None else Checkpointed(model, reentrant)
        first = objective(forward(again, x, y))
        forward(again, rows(3, 3).requires_grad_(), rows(5, 4))
        if reentrant:
            with pytest.raises(RuntimeError, match="call backward before the next step"):
                first.backward()
        else:
            grads.append(torch.autograd.grad(first, [x, *model.parameters()]))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("forward", [ubn_forward, interleaved])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_refuses_unlabeled_rows_with_a_gradient(reentrant, forward):
    model = Checkpointed(convert_ubn(network(), stats_grad="all"), reentrant)
    with pytest.raises(RuntimeError, match="does not go with unlabeled rows that have a gradient"):
        forward(model, rows(3, 1).requires_grad_(), rows(5, 2)).sum().backward()


def test_export_in_eval_mode_is_that_of_batchnorm():
    model = convert_ubn(network())
    ubn_forward(model, rows(3, 1), rows(5, 2))
    exported = torch.export.export(model.eval(), (rows(4, 3),))
    torch.testing.assert_close(exported.module()(rows(4, 5)), model(rows(4, 5)))
    plain = torch.export.export(network().eval(), (rows(4, 3),))
    ours, theirs = ([str(n.target) for n in e.graph.nodes] for e in (exported, plain))
    assert ours == theirs


def test_the_last_step_holds_no_activations_after_backward():
    """Statistics outlive backward; the activations behind them do not."""
    models, seen = [], []
    for stats_grad in ("corrected", "none", "labeled", "all"):
        model = convert_ubn(network(), stats_grad=stats_grad)
        hook = model[1].register_forward_hook(
            lambda _, inputs, __: seen.append(weakref.ref(inputs[0].untyped_storage()))
        )
        objective(interleaved(model, rows(3, 1), rows(5, 2))).backward()
        hook.remove()
        models.append(model)
    gc.collect()  # slow where a process holds much, so once
    assert len(seen) == 8 and not any(ref() for ref in seen)
    assert all(statistics_gap(model) > 0 for model in models)
