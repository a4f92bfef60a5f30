"""torch.compile with each option of a layer, other rows, outside a step, and on two ranks."""

import copy

import pytest
import torch

import ddp_worker
from small_nets import by_hand, network, rows, train
from ubnlib import convert_ubn, ubn_forward


@pytest.mark.parametrize(
    "options",
    [
        dict(),  # two layers; one with the options, which are a layer's own: graphs take long
        dict(stats_grad="none", momentum=None),
        dict(stats_grad="labeled"),
        dict(stats_grad="all"),
        dict(source="running", momentum=None, running_stat="std"),
        dict(unlabeled_weight=0.7),
        dict(skip_nonfinite=False),
    ],
    ids=str,
)
def test_both_steps_compile_as_one_graph_each(options):
    torch._dynamo.reset()
    eager = convert_ubn(network()[:3] if options else network(), **options)
    inner = copy.deepcopy(eager)
    compiled = torch.compile(inner, fullgraph=True, backend="aot_eager")
    way = by_hand if "unlabeled_weight" in options else ubn_forward
    for n in (3, 4):
        x, y = rows(n, 1), rows(n + 2, 2)
        torch.testing.assert_close(train(compiled, x, y, way), train(eager, x, y, way))
    torch.testing.assert_close(compiled.eval()(x), eager.eval()(x))
    if inner[1].momentum is not None:  # nn.BatchNorm itself cannot, with momentum=None
        torch.testing.assert_close(compiled.train()(x), eager.train()(x))


def test_a_distributed_model_that_is_compiled_from_outside(tmp_path):
    ranks = [found["compiled"] for found in ddp_worker.run(tmp_path, ddp_worker.compiled)]
    x, y, *_ = ddp_worker.rows(ddp_worker.SPLITS["uneven"])
    output, gradients, _ = train(convert_ubn(network()), x, y, ubn_forward)
    torch.testing.assert_close(torch.cat([rank[0] for rank in ranks]), output)
    for _, found, _ in ranks:
        torch.testing.assert_close([g * len(ranks) for g in found], gradients)
