"""Nets side by side against the same nets one by one, in plain loops of torch alone."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.toy.ensemble import Ensemble
from oracle import oracle_training
from ubnlib import convert_ubn, ubn_forward

METHODS = {  # options of convert_ubn; None is batch normalization
    "BN": None,
    "corrected": dict(stats_grad="corrected"),
    "none": dict(stats_grad="none"),
    "running": dict(stats_grad="corrected", source="running", momentum=0.3),
    "deviations": dict(stats_grad="none", running_stat="std"),
}
# Adam's eps is larger than usual: else it makes whole steps of gradients that are rounding errors,
# such as those of a bias before a normalization, and no two ways of computing stay together.
OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, eps=1e-3),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
}
MEMBERS, ROWS, OTHERS = 3, 6, 9


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


def make_batches(steps, dtype=torch.float64, seed=1):
    """Labeled rows [steps, N, E, 2], their classes [steps, N, E], unlabeled rows."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(steps, n, MEMBERS, 2, generator=generator) for n in (ROWS, OTHERS))
    targets = torch.randint(2, (steps, ROWS, MEMBERS), generator=generator)
    return x.to(dtype), targets, (1 + 2 * y).to(dtype)


def norms_of(net):
    return [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm1d)]


def train_alone(net, x, targets, y, options, optimizer):
    """Train one net without ubnlib. Returns it with its losses."""
    net = copy.deepcopy(net)
    stepper = OPTIMIZERS[optimizer](net.parameters())
    losses = oracle_training(net, zip(x, targets, y, strict=True), stepper, options)
    return net, torch.tensor(losses, dtype=x.dtype)


def train_together(nets, x, targets, y, options, optimizer):
    ensemble, losses = Ensemble(nets), []
    if options is not None:
        convert_ubn(ensemble, **options)
    stepper = OPTIMIZERS[optimizer](ensemble.parameters())
    for rows, target, others in zip(x, targets, y, strict=True):
        output = ubn_forward(ensemble, rows, None if options is None else others)
        each = [cross_entropy(output[:, e], target[:, e]) for e in range(len(nets))]
        stepper.zero_grad()
        sum(each).backward()
        stepper.step()
        losses.append([loss.item() for loss in each])
    return ensemble, torch.tensor(losses, dtype=x.dtype)


def numbers(net):
    """Weights and running statistics; not how many batches were seen, which the oracle omits."""
    return {name: v for name, v in net.state_dict().items() if "num_batches" not in name}


@pytest.mark.parametrize(
    ("method", "optimizer"), [*((method, "adam") for method in METHODS), ("none", "sgd")]
)
def test_members_learn_what_they_would_learn_alone(method, optimizer):
    nets, (x, targets, y) = make_nets(), make_batches(steps=25)
    ensemble, losses = train_together(nets, x, targets, y, METHODS[method], optimizer)
    for e, net in enumerate(nets):
        single = x[:, :, e], targets[:, :, e], y[:, :, e]
        alone, expected = train_alone(net, *single, METHODS[method], optimizer)
        torch.testing.assert_close(losses[:, e], expected, rtol=0, atol=1e-10)
        member = ensemble.member(e, net)
        torch.testing.assert_close(numbers(member), numbers(alone), rtol=0, atol=1e-10)
        assert [norm.num_batches_tracked.item() for norm in norms_of(member)] == [25, 25]
        moved = (alone[0].weight - net[0].weight).abs().max()
        assert moved > 0.01, "nothing was learned, so nothing was compared"


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
    nets, x = make_nets(), make_batches(steps=1)[0][0]
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
