"""Two gloo processes, each with rows of its own, compute what one process computes with all."""

import pytest
import torch
from torch import nn

import ddp_worker
from ddp_worker import READINGS, SPLITS, WAYS, gap, rows
from small_nets import interleaved, network, train
from ubnlib import convert_ubn, refresh_statistics, ubn_forward


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank found."""
    return ddp_worker.run(tmp_path_factory.mktemp("ranks"), ddp_worker.everything_else)


def assert_same(ranks, alone):
    outputs, gradients, buffers = zip(*ranks, strict=True)
    torch.testing.assert_close(torch.cat(outputs), alone[0], rtol=1e-9, atol=1e-9)
    for found in gradients:  # DistributedDataParallel takes the mean over the ranks
        found = [g * ddp_worker.WORLD for g in found]
        torch.testing.assert_close(found, alone[1], rtol=1e-7, atol=1e-7)
    for found in buffers:
        torch.testing.assert_close(found, alone[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reading", ["labeled", "all"])
def test_second_derivatives_are_those_of_one_process(ranks, reading):
    x, y, *_ = rows(SPLITS["uneven"])
    flat, others = x.flatten(1)[:, :3], y.flatten(1)[:, :3]
    layer = convert_ubn(nn.BatchNorm1d(3).double(), stats_grad=reading)
    found = torch.cat([rank["second derivative", reading] for rank in ranks])
    torch.testing.assert_close(found, ddp_worker.second_derivative(layer, flat, others))


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("split", SPLITS)
def test_two_processes_equal_one(ranks, split, reading):
    x, y, *_ = rows(SPLITS[split])
    for way in WAYS:
        if (split, reading, way.__name__) in ranks[0]:
            alone = train(convert_ubn(network(), **READINGS[reading]), x, y, way)
            assert_same([rank[split, reading, way.__name__] for rank in ranks], alone)


@pytest.mark.parametrize("reading", ddp_worker.NO_UNLABELED_READINGS)
def test_no_unlabeled_rows_on_any_rank_is_batch_normalization(ranks, reading):
    x, y, *_ = rows(ddp_worker.NO_UNLABELED)
    alone = train(convert_ubn(network(), stats_grad=reading), x, y, ubn_forward)
    for way in ("ubn_forward", "interleaved"):
        assert_same([rank["no unlabeled rows", reading, way] for rank in ranks], alone)


def test_a_wrapper_inside_of_the_model_is_found(ranks):
    x, y, *_ = rows(SPLITS["uneven"])
    alone = train(convert_ubn(network()), x, y, ubn_forward)
    assert_same([rank["inside"] for rank in ranks], alone)


@pytest.mark.parametrize("interleave", [False, True])
def test_a_step_inside_of_a_wrapped_module_shares_statistics(ranks, interleave):
    """As in every LightningModule, whose training step runs in the wrapper's forward."""
    x, y, *_ = rows(SPLITS["uneven"])
    alone = train(convert_ubn(network()), x, y, ubn_forward)
    assert_same([rank["step inside", interleave] for rank in ranks], alone)


def test_little_data_on_one_rank_and_much_on_another(ranks):
    x, *_ = rows(SPLITS["uneven"])
    outputs, many = zip(*(rank["lopsided"] for rank in ranks), strict=True)
    alone = train(convert_ubn(network()), x, torch.cat(many), interleaved)
    torch.testing.assert_close(torch.cat(outputs), alone[0], rtol=1e-9, atol=1e-9)


def test_the_gap_over_all_ranks_has_its_gradient(ranks):
    """Each rank adds the gap of all ranks to its loss."""
    x, y, *_ = rows(SPLITS["uneven"])
    model = convert_ubn(network(), keep_graph=True)
    alone = train(model, x, y, ubn_forward, gap=lambda m: gap(m) * len(ranks))
    assert_same([rank["gap"] for rank in ranks], alone)
    without = train(convert_ubn(network()), x, y, ubn_forward)[1]
    assert (alone[1][0] - without[0]).abs().max() > 1e-3


def test_converted_sync_batchnorm_needs_no_wrapper(ranks):
    x, y, *_ = rows(SPLITS["uneven"])
    alone = convert_ubn(network())
    output = ubn_forward(alone, x, y).detach()
    torch.testing.assert_close(torch.cat([rank["sync"][0] for rank in ranks]), output)
    for rank in ranks:
        torch.testing.assert_close(rank["sync"][1], dict(alone.named_buffers()))


def test_a_synchronized_layer_has_the_ranks_of_its_own_group(ranks):
    for rank in ranks:
        torch.testing.assert_close(*rank["own ranks"])


def test_a_synchronized_layer_is_that_outside_a_step_too(ranks):
    x, *_ = rows(SPLITS["uneven"])
    alone = convert_ubn(nn.BatchNorm1d(3).double(), running_stat="std")
    expected = alone(x.flatten(1)[:, :3]).detach()
    torch.testing.assert_close(torch.cat([rank["sync, plainly"][0] for rank in ranks]), expected)
    for rank in ranks:
        torch.testing.assert_close(rank["sync, plainly"][1], dict(alone.named_buffers()))


def test_refreshed_statistics_are_those_of_all_ranks(ranks):
    _, y, *_ = rows(SPLITS["uneven"])
    alone = nn.Sequential(*network()[:2], nn.BatchNorm2d(5))
    refresh_statistics(alone, [y], call=lambda y: alone[:2](y))
    for rank in ranks:
        torch.testing.assert_close(rank["refresh"], dict(alone.named_buffers()))
