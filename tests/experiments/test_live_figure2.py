"""Notebook 2's cells that are Figure 2 alone: the spiral and the two steps of the paper?"""

import copy
from itertools import chain, pairwise
from pathlib import Path

import nbformat
import torch
from torch import nn
from torch.nn.functional import batch_norm, cross_entropy

from experiments.method.implementation import code_lines
from experiments.toy.spiral import SpiralNet, make_spiral
from ubnlib import convert_ubn, ubn_forward

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_toy_analysis.ipynb"
CELLS = ("live-02", "live-04", "live-05")


def live() -> tuple[dict, str]:
    """Run the cells; return what they define, and their code."""
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
    source = "\n".join(cells[name] for name in CELLS)
    names = dict(torch=torch, nn=nn, pairwise=pairwise, chain=chain)
    names |= dict(batch_norm=batch_norm, cross_entropy=cross_entropy)
    exec(source, names)
    return names, source


def test_the_spiral_and_the_net_are_the_studys():
    names, _ = live()
    for ours, theirs in zip(names["spiral"](225), make_spiral(225, 0.0), strict=True):
        torch.testing.assert_close(ours, theirs)
    ours, theirs = names["network"](nn.BatchNorm1d), SpiralNet()
    assert [str(layer) for layer in ours] == [str(layer) for layer in theirs]


def test_the_layer_is_the_librarys_paper_preset():
    names, _ = live()
    torch.manual_seed(0)
    ours = names["network"](names["TwoSteps"]).double()
    theirs = SpiralNet().double()
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    theirs = convert_ubn(theirs, preset="paper")
    x, y = torch.randn(8, 2, dtype=torch.float64), 3 + torch.randn(20, 2, dtype=torch.float64)
    for _ in range(3):  # so that averages and weights have moved
        found = []
        for net, forward in ((ours, names["two_steps"]), (theirs, ubn_forward)):
            output = forward(net, x, y)
            gradients = torch.autograd.grad(output[:, 0].square().mean(), list(net.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
            found.append(
                [output.detach(), *gradients, *(b for b in net.buffers() if b.is_floating_point())]
            )
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_they_are_short_and_show_figure_2():
    names, source = live()
    assert code_lines(source) <= 50
    points, classes = names["spiral"](500)
    accuracy = {}
    for norm in (nn.BatchNorm1d, names["TwoSteps"]):
        net, labeled, truth = names["learn"](norm, 8, seed=0, steps=200)
        assert labeled.shape == (50, 2) and truth.tolist() == [0] * 25 + [1] * 25
        accuracy[norm] = (net(points).argmax(1) == classes).float().mean()
    assert accuracy[names["TwoSteps"]] > accuracy[nn.BatchNorm1d] + 0.05
