"""Batches that are trees of tensors, the output of the unlabeled rows, other calls of the model."""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from small_nets import network, objective, rows
from ubnlib import convert_ubn, ubn_forward

both_ways = pytest.mark.parametrize("interleave", [False, True])


class Pair(NamedTuple):
    x: torch.Tensor
    scale: torch.Tensor


@dataclass
class Sample:
    pair: Pair


class OfTrees(nn.Module):
    """Takes any of the trees below; gives what it finds for either key."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, batch, power=1):
        batch = batch.pair if isinstance(batch, Sample) else batch
        x, scale = batch.values() if isinstance(batch, dict) else batch
        h = self.net(x * scale.view(-1, 1, 1, 1) ** power)
        return {"h": h, "rows": len(x)}


TREES = {
    "tuple": lambda x, s: (x, s),
    "list": lambda x, s: [x, s],
    "dict": lambda x, s: {"x": x, "scale": s},
    "defaultdict": lambda x, s: defaultdict(list, x=x, scale=s),
    "named tuple": Pair,
    "dataclass": lambda x, s: Sample(Pair(x, s)),
}


def scales(n):
    return torch.linspace(1, 2, n, dtype=torch.float64)


@both_ways
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_batches_are_trees(tree, interleave):
    x, y = tree(rows(3, 1), scales(3)), tree(rows(5, 2), scales(5))
    model = convert_ubn(OfTrees())
    output = ubn_forward(model, x, y, power=2, interleave=interleave)
    both = torch.cat([rows(3, 1), rows(5, 2)]), torch.cat([scales(3), scales(5)])
    torch.testing.assert_close(output["h"], OfTrees()(both, power=2)["h"][:3])
    assert output["rows"] == 3
    plain, alone = OfTrees(), ubn_forward(convert_ubn(OfTrees()), x, None, 2)
    assert torch.equal(alone["h"], plain(x, 2)["h"])


@both_ways
@pytest.mark.parametrize("reading", ["corrected", "none", "labeled", "all"])
@pytest.mark.parametrize("returned", [True, "gradient"])
def test_the_unlabeled_rows_output(returned, reading, interleave):
    """With a gradient, it is that of one joint pass, whatever `stats_grad` is."""
    x, y = rows(3, 1).requires_grad_(), rows(5, 2).requires_grad_()
    model, plain = convert_ubn(network(), stats_grad=reading), network()
    ours = ubn_forward(model, x, y, return_unlabeled=returned, interleave=interleave)
    joint = plain(torch.cat([x, y])).split([3, 5])
    torch.testing.assert_close(tuple(ours), joint)
    torch.testing.assert_close(list(model.buffers()), list(plain.buffers()))
    assert ours[0].requires_grad and ours[1].requires_grad is (returned == "gradient")
    if returned == "gradient":
        grads = [
            torch.autograd.grad(objective(a) - 2 * objective(b), [x, y, *m.parameters()])
            for (a, b), m in ((ours, model), (joint, plain))
        ]
        torch.testing.assert_close(*grads)


X = torch.zeros(3, 3, 8, 7, dtype=torch.float64)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((X, X), [X, X], "a tuple of .* a list of .*same structure"),
        ({"x": X}, {"z": X}, r"\['x'\] where the unlabeled one has .*\['z'\].*same structure"),
        ((X, X), (X,), "a tuple of .* a tuple of .*same structure"),
        (X, {"x": X}, "structure|tensor"),
        ((), (), "labeled batch has no tensor"),
        ({}, {}, "labeled batch has no tensor"),
        (X, X.to("meta"), "device cpu and the unlabeled ones meta"),
        (X, X.float(), r"dtype torch\.float64 and the unlabeled ones torch\.float32"),
        (X, X[0], r"shape \(3, 8, 7\) and the unlabeled ones \(8, 7\)"),
        ((X, X[:2]), (X, X), r"labeled batch has tensors of \[2, 3\] rows"),
        ((X, 1), (X, 2), "has 1 where the unlabeled one has 2"),
        ((X, X.sum()), (X, X.sum() + 2), r"has tensor\(0\..*\) where the .* one has tensor\(2\."),
        ((X, None), (X, X), "has None where the unlabeled one has"),
        (X.numpy(), X.numpy()[:2], "array|tensor"),
    ],
)
def test_batches_that_do_not_go_together(x, y, message):
    with pytest.raises(ValueError, match=message) as refused:
        ubn_forward(convert_ubn(network()), x, y)
    assert len(str(refused.value)) < 300, "a sentence, without the values of a tensor"


class Opaque:
    """An output that tells nobody of its rows."""

    def __init__(self, scores):
        self.scores = scores


def test_an_output_that_may_hold_rows_is_not_returned_whole():
    x, y = rows(4, 1), rows(5, 2)
    model = convert_ubn(network())
    step = dict(return_unlabeled=True, call=lambda batch: Opaque(model(batch)))
    with pytest.raises(ValueError, match="gives a Opaque for 4 labeled and 5 unlabeled rows"):
        ubn_forward(model, x, y, **step)
    ours, others = ubn_forward(model, x, y, interleave=True, **step)
    assert (len(ours.scores), len(others.scores)) == (4, 5)


def test_the_output_that_is_asked_for_is_one_of_three():
    with pytest.raises(ValueError, match="return_unlabeled is 'grad'"):
        ubn_forward(convert_ubn(network()), X, X, return_unlabeled="grad")


@dataclass
class Checked:
    """Looks at its tensor when it is made."""

    x: torch.Tensor

    def __post_init__(self):
        assert self.x.dim() == 2


@both_ways
def test_a_batch_is_looked_at_without_making_it_anew(interleave):
    made = []

    class Counted(dict):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self["x"].x)  # a dict of None would fail

    x, y = (Counted({"x": Checked(torch.randn(n, 2))}) for n in (4, 6))
    model = convert_ubn(nn.Sequential(nn.BatchNorm1d(2)))
    out = ubn_forward(model, x, y, call=lambda d: model(d["x"].x), interleave=interleave)
    joint = nn.BatchNorm1d(2)(torch.cat([x["x"].x, y["x"].x]))
    torch.testing.assert_close(out, joint[:4])
    assert len(made) == (2 if interleave else 3)


@both_ways
def test_an_output_whose_first_dimension_is_as_long_by_chance(interleave):
    """Time before rows, as recurrent nets have it: six steps for two and four rows."""
    x, y = torch.randn(2, 3), torch.randn(4, 3)
    model = convert_ubn(nn.Sequential(nn.BatchNorm1d(3)))
    joint = nn.BatchNorm1d(3)(torch.cat([x, y]))
    found = ubn_forward(
        model,
        x,
        y,
        call=lambda rows: model(rows).expand(6, -1, -1),
        return_unlabeled="gradient",
        interleave=interleave,
    )
    torch.testing.assert_close(found, (joint[:2].expand(6, -1, -1), joint[2:].expand(6, -1, -1)))
