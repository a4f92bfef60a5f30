"""torch.compile and torch.export; more options in tests/slow."""

import copy

import pytest
import torch

from small_nets import network, rows, train
from ubnlib import convert_ubn, ubn_forward


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_both_steps_compile_as_one_graph_each(fresh_dynamo):
    eager = convert_ubn(network()[:3])
    compiled = copy.deepcopy(eager)
    compiled.compile(fullgraph=True, backend="aot_eager")
    x, y = rows(3, 1), rows(5, 2)
    expected = train(eager, x, y, ubn_forward)
    torch.testing.assert_close(train(compiled, x, y, ubn_forward), expected)


def test_export_in_eval_mode_is_that_of_batchnorm():
    model = convert_ubn(network())
    ubn_forward(model, rows(3, 1), rows(5, 2))
    exported = torch.export.export(model.eval(), (rows(4, 3),))
    torch.testing.assert_close(exported.module()(rows(4, 5)), model(rows(4, 5)))
    plain = torch.export.export(network().eval(), (rows(4, 3),))
    ours, theirs = ([str(n.target) for n in e.graph.nodes] for e in (exported, plain))
    assert ours == theirs
