"""Activation checkpointing in a step, and steps and plain calls under one backward."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from generated_nets import Recomputed, bounded_loss
from oracle import oracle_forward
from small_nets import interleaved, network, objective, rows, train
from ubnlib import collecting, convert_ubn, ubn_forward

READINGS = ["corrected", "none", "labeled", "all"]
# The unlabeled rows pass without gradient.
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
both_ways = pytest.mark.parametrize("way", [ubn_forward, interleaved])


def checkpointed(net, reentrant):
    """The first half is recomputed in backward."""
    return nn.Sequential(Recomputed(net[:3], reentrant), net[3:])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    ("options", "way"),
    [
        (dict(), lambda model, x, y: ubn_forward(model, x, None)),  # no unlabeled rows
        (dict(stats_grad="none", momentum=None), interleaved),
        (dict(source="running", momentum=None, running_stat="std"), ubn_forward),
    ],
)
def test_checkpointing_changes_nothing(options, way, reentrant):
    """More, with options of other layers: test_other_models.py."""
    model = convert_ubn(network(), **options)
    again = checkpointed(copy.deepcopy(model), reentrant)
    x, y = rows(3, 1).requires_grad_(), rows(5, 2)
    torch.testing.assert_close(train(again, x, y, way), train(model, x, y, way))
    assert model[1].num_batches_tracked == 2


@both_ways
def test_backward_of_a_step_that_another_one_follows(way):
    """Torch knows a checkpoint again, but nothing of one with use_reentrant=True."""
    y, grads = rows(5, 2), []
    for reentrant, later in ((None, 1), (False, 3), (True, 1), (True, 2)):
        x, model = rows(3, 1).requires_grad_(), convert_ubn(network())
        again = checkpointed(model, reentrant)
        first = objective(way(again, x, y))
        for seed in range(3, 3 + later):
            way(again, rows(3, seed).requires_grad_(), rows(5, 4))
        if later == 2:
            with pytest.raises(RuntimeError, match="call backward before the next step"):
                first.backward()
        else:
            first.backward()
            grads.append([x.grad, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(grads[1:], grads[:1] * 2)


def test_what_notes_nothing_does_not_make_a_step_older():
    """As steps that fail, and statistics that are collected and not used."""
    y, grads = rows(5, 2), []
    for others in (0, 2):
        x, model = rows(3, 1).requires_grad_(), convert_ubn(network())
        again = checkpointed(model, True)
        loss = objective(ubn_forward(again, x, y))
        for _ in range(others):
            with collecting(again), pytest.raises(RuntimeError, match="stop"):
                raise RuntimeError("stop")
            with collecting(again):
                again(rows(6, 4))
        loss.backward()
        grads.append([x.grad, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*grads)


def two_steps(model, x, others, way):
    return sum(objective(way(model, x, y)) for y in others)


@both_ways
def test_two_steps_with_the_same_labeled_rows_under_one_backward(way):
    x, others = rows(3, 1).requires_grad_(), [rows(5, 2), 3 * rows(5, 3)]
    grads = []
    for reentrant in (None, False):
        model = convert_ubn(network())
        loss = two_steps(checkpointed(model, reentrant), x, others, way)
        grads.append(torch.autograd.grad(loss, [x, *model.parameters()]))
    torch.testing.assert_close(*grads)
    model = checkpointed(convert_ubn(network()), True)
    with pytest.raises(RuntimeError, match="passed through a layer twice"):
        two_steps(model, x, others, way).backward()
    for y in others:  # each went backward before the next one: as training on one batch does
        two_steps(model, x, [y], way).backward()


@both_ways
def test_rows_that_pass_twice_in_nested_checkpoints_or_in_one_are_refused(way):
    x, y = rows(3, 1).requires_grad_(), rows(5, 2)

    def both(model, rows):
        return objective(way(model, rows, y)) + objective(model(rows))

    nested = Recomputed(checkpointed(convert_ubn(network()), False), False)
    with pytest.raises(RuntimeError, match="without a checkpoint around others"):
        both(nested, x).backward()
    model = convert_ubn(network())
    with pytest.raises(RuntimeError, match="or around both"):
        checkpoint(both, model, x, use_reentrant=False).backward()
    grads = []
    for around in (
        lambda run, *of: run(*of),
        lambda run, *of: checkpoint(run, *of, use_reentrant=False),
    ):
        model = convert_ubn(network())
        loss = around(lambda m, z: objective(way(m, z, y)) + objective(m(2 * z + 1)), model, x)
        grads.append(torch.autograd.grad(loss, [x, *model.parameters()]))
    torch.testing.assert_close(*grads)  # with other rows in the plain call there is no doubt


@both_ways
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_refuses_unlabeled_rows_with_a_gradient(reentrant, way):
    model = checkpointed(convert_ubn(network(), stats_grad="all"), reentrant)
    with pytest.raises(RuntimeError, match="does not go with unlabeled rows that have a gradient"):
        way(model, rows(3, 1).requires_grad_(), rows(5, 2)).sum().backward()


class Block(nn.Module):
    def __init__(self, reentrant, *layers, options=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3)
        self.block = Recomputed(nn.Sequential(*layers), reentrant, **options or {})

    def forward(self, x):
        return self.block(self.stem(x))


@both_ways
@pytest.mark.parametrize("kept", ["convolution", "softplus", "norm"])
@pytest.mark.parametrize("reading", READINGS[:3])
def test_selective_checkpointing(reading, kept, way):
    """The operations of the name are kept, the others made again."""

    def policy(_, operation, *__, **___):
        save = kept in str(operation)
        return CheckpointPolicy.MUST_SAVE if save else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    grads = []
    for options in (None, dict(context_fn=contexts)):
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(5)
        layers = norm, nn.Softplus(), nn.Dropout(), nn.Conv2d(5, 5, 3), norm
        again = None if options is None else False
        model = convert_ubn(Block(again, *layers, options=options), stats_grad=reading).double()
        x, y = rows(3, 1).requires_grad_(), rows(5, 2)
        loss = bounded_loss(way(model, x, y)) + 2 * bounded_loss(model(x))
        grads.append(torch.autograd.grad(loss, [x, *model.parameters()]))
    torch.testing.assert_close(*grads)


class Centered(nn.Module):
    """A shared layer, twice on rows of mean zero, which their means do not tell apart."""

    def __init__(self, reentrant):
        super().__init__()
        self.norm, self.reentrant = nn.BatchNorm1d(4).double(), reentrant

    def block(self, x):
        x, wide = x - x.mean(0), 10 * x.tanh()
        return self.norm(x) + 2 * self.norm(wide - wide.mean(0))

    def forward(self, x):
        if self.reentrant is None:
            return self.block(x)
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


@both_ways
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_tell_calls_of_one_mean_apart(way, reentrant):
    grads = []
    for how in (None, reentrant):
        torch.manual_seed(0)
        model, (x, y) = convert_ubn(Centered(how)), torch.randn(2, 16, 4, dtype=torch.float64)
        x.requires_grad_()
        way(model, x, y).pow(3).sum().backward()
        grads.append([x.grad, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*grads)


# Steps and plain calls under one backward


def mixed(model, calls, ubn_step):
    """The sum of a loss of each call: of the step, of other rows plainly, and of the same ones."""
    x, y, other = rows(4, 1).requires_grad_(), 1 + rows(5, 2), (2 * rows(3, 3)).requires_grad_()
    run = {
        "step": lambda: ubn_step(model, x, y),
        "other": lambda: model(other),
        "same": lambda: model(x),
        "none": lambda: ubn_forward(model, x, None),
    }
    loss = sum((i + 1) * bounded_loss(run[call]()) for i, call in enumerate(calls))
    loss.backward()
    return [x.grad, *(p.grad for p in model.parameters())], list(model.buffers())


def oracle_and_averages(stats_grad):
    def run(model, x, y):
        output, running = oracle_forward(model, x, y, stats_grad=stats_grad)
        for norm, (mean, var) in zip((model[1], model[4]), running, strict=True):
            norm.running_mean, norm.running_var = mean, var
            norm.num_batches_tracked += 1
        return output

    return run


@both_ways
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(
    "calls",
    [
        ["other", "step"],  # fake rows, then real ones
        ["step", "other"],
        ["step", "same"],  # R-Drop
        ["none", "other", "step", "same", "other"],
    ],
    ids="-".join,
)
def test_plain_calls_and_a_step_under_one_backward(calls, reading, way):
    expected = mixed(network(), calls, oracle_and_averages(reading))
    model = convert_ubn(network(), stats_grad=reading)
    torch.testing.assert_close(mixed(model, calls, way), expected)
    for how in (False, True) if reading != "all" else ():
        model = convert_ubn(network(), stats_grad=reading)
        again = checkpointed(model, how)
        if how and "same" in calls:  # torch keeps nothing that would tell them apart
            with pytest.raises(RuntimeError, match="use_reentrant=False"):
                mixed(again, calls, way)
        else:
            torch.testing.assert_close(mixed(again, calls, way), expected)
