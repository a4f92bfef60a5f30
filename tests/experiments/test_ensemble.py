"""Nets side by side against the same nets one by one; test_toy_train.py trains them."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from experiments.toy.ensemble import Ensemble

MEMBERS, ROWS = 3, 6


def make_nets(count=MEMBERS, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return [
        nn.Sequential(
            nn.Linear(2, 7), nn.BatchNorm1d(7), nn.ReLU(),
            nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Tanh(),
            nn.Linear(5, 2),
        ).to(dtype)
        for _ in range(count)
    ]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    members=st.integers(1, 4),
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    rows=st.integers(4, 9),
    seed=st.integers(0, 2**16),
)
def test_any_shape_gives_what_its_nets_give(members, widths, rows, seed):
    torch.manual_seed(seed)
    nets = [
        nn.Sequential(
            *(
                layer
                for i, o in itertools.pairwise(widths)
                for layer in (nn.Linear(i, o), nn.BatchNorm1d(o, affine=seed % 2 == 0), nn.ReLU())
            )
        ).double()
        for _ in range(members)
    ]
    x = torch.randn(rows, members, widths[0], dtype=torch.float64)
    ensemble = Ensemble(nets)
    for mode in (True, False):
        ensemble.train(mode)
        each = [net.train(mode)(x[:, e]) for e, net in enumerate(nets)]
        torch.testing.assert_close(ensemble(x), torch.stack(each, 1), rtol=1e-9, atol=1e-9)


def test_member_gives_the_net_back():
    nets = make_nets()
    for net in nets:
        net(torch.randn(8, 2, dtype=torch.float64))  # running statistics of its own
    ensemble, template = Ensemble(nets), make_nets(1, seed=9)[0]
    kept = copy.deepcopy(template.state_dict())
    for e, net in enumerate(nets):
        member = ensemble.member(e, template)
        assert all(torch.equal(v, member.state_dict()[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(v, template.state_dict()[k]) for k, v in kept.items())
    member[0].weight.data.zero_()
    assert ensemble.layers[0].weight.abs().min() > 0, "a member must be a copy"


def test_features_are_what_the_normalizations_give():
    nets, x = make_nets(), torch.randn(ROWS, MEMBERS, 2, dtype=torch.float64)
    ensemble = Ensemble(nets).eval()
    features = ensemble.normalized_features(x)
    assert [tuple(feature.shape) for feature in features] == [(ROWS, 3, 7), (ROWS, 3, 5)]
    for e, net in enumerate(nets):
        net.eval()
        for feature, last in zip(features, (2, 5), strict=True):
            torch.testing.assert_close(feature[:, e], net[:last](x[:, e]))


def test_dropout_draws_for_each_member():
    net = nn.Sequential(nn.Linear(2, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 2))
    ensemble = Ensemble([net] * 3)
    x = torch.randn(1, 1, 2).expand(1, 3, 2)
    torch.manual_seed(0)
    one, two, three = ensemble(x)[0]
    assert not torch.equal(one, two) and not torch.equal(two, three)
    one, two, three = ensemble.eval()(x)[0]
    torch.testing.assert_close(one, net.eval()(x[:, 0])[0])
    torch.testing.assert_close(one, three)


@pytest.mark.parametrize(
    ("nets", "said"),
    [
        ([], "no nets"),
        ([nn.Sequential(nn.Linear(2, n)) for n in (3, 3, 4)], "Net 2 has other layers than net 0"),
        ([nn.Sequential(nn.BatchNorm1d(3, eps=e)) for e in (1e-5, 1e-3)], "with the same settings"),
        ([nn.Sequential(nn.Linear(2, 2)), nn.Sequential()], "Net 1 has other layers"),
        ([nn.Sequential(nn.Linear(2, 2, bias=False))], "Layer 0 is Linear.*with a bias"),
        ([nn.Sequential(nn.ReLU(), nn.Softmax(1))], r"Layer 1 is Softmax\(dim=1\): an ensemble"),
        ([nn.Sequential(nn.BatchNorm2d(2))], "Layer 0 is BatchNorm2d"),
    ],
)
def test_nets_that_cannot_stand_side_by_side_are_refused(nets, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        Ensemble(nets)
