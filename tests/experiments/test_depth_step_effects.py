"""What a step believes and what happens, against closed forms and the steps done by hand."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from experiments.common.records import Result, recorded, write_record
from experiments.common.training import BNConfig
from experiments.depth import literal_failure
from experiments.depth.config import UBNForm, repair_literal
from experiments.depth.data import EveryLabels
from experiments.depth.engine import EngineConfig
from experiments.depth.literal_failure import CancellationConfig, effects_of, run_cancellation
from experiments.depth.step_effects import gradient_flows, measure_gradients, step_effects
from experiments.depth.train import train_depth
from train_worker import write_walls
from ubnlib import UnsupervisedBatchNorm1d, collecting, convert_ubn, revert_ubn, ubn_forward, using

BELIEFS = {
    "none": ("none", "nothing"),
    "shift": ("none", "shift"),
    "scale": ("none", "scale"),
    "corrected": ("corrected", "nothing"),
    "labeled": ("labeled", "nothing"),
    "all": ("all", "nothing"),
}


def draw(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def deep_net(belief="none"):
    """A convolutional net whose layers normalize, in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 2, 3),
        nn.BatchNorm2d(2),
    ).double()
    stats_grad, repair = BELIEFS[belief]
    return repair_literal(convert_ubn(net, stats_grad=stats_grad), repair)


def linear_net(norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), norm).double()


def cubes(z):
    return z.pow(3).mean()


def sgd(net, rate=0.1):
    return torch.optim.SGD(net.parameters(), lr=rate)


# --- closed forms --------------------------------------------------------------------------------


def test_a_bias_before_ubn_believes_in_a_shift_that_never_happens():
    x, y = draw((6, 3), (10, 3))
    net = linear_net(UnsupervisedBatchNorm1d(3, stats_grad="none"))
    (target,) = draw((6, 3), seed=1)
    bias, rate = net[0].bias, 0.5
    effects = step_effects(
        net,
        torch.optim.SGD([bias], lr=rate),
        lambda z: (z - target).square().sum() / 2,
        x,
        y,
        "none",
    )
    # By hand: z = (x W' + b - mu) / sigma, and b moves by -rate dL/db = -rate sum(z - t) / sigma.
    inputs = torch.cat([x, y]) @ net[0].weight.T + bias
    sigma = (inputs.var(0, correction=0) + net[1].eps).sqrt()
    z = (inputs[:6] - inputs.mean(0)) / sigma
    move = -rate * (z - target).sum(0) / sigma**2
    believed = (z + move - target).square().sum() / 2 - (z - target).square().sum() / 2
    assert effects.loss == pytest.approx(((z - target).square().sum() / 2).item())
    assert effects.believed == pytest.approx(believed.item())
    assert effects.promised == pytest.approx(-(move * sigma).square().sum().item() / rate)
    assert abs(effects.happened) < 1e-12
    (layer,) = effects.layers.to_dict("records")
    assert layer["believed"] == pytest.approx(move.square().mean().sqrt().item())
    assert layer["happened"] < 1e-12
    assert layer["cancelled"] == pytest.approx(1, abs=1e-12)


# --- the steps by hand ---------------------------------------------------------------------------


def test_literal_belief_is_using_with_old_statistics_and_happening_a_new_ubn_step():
    x, y = draw((4, 3, 6, 7), (5, 3, 6, 7))
    net = deep_net()
    effects = step_effects(net, sgd(net), cubes, x, y, "none")
    optimizer = sgd(net)
    with collecting(net):
        net(torch.cat([x, y]))
    with using(net):
        start = cubes(net(x))
    start.backward()
    optimizer.step()
    with torch.no_grad():
        with using(net, allow_stale=True):
            believed = cubes(net(x)) - start
        happened = cubes(ubn_forward(net, x, y)) - start
    assert effects.loss == pytest.approx(start.item(), rel=1e-12)
    assert effects.believed == pytest.approx(believed.item(), rel=1e-9)
    assert effects.happened == pytest.approx(happened.item(), rel=1e-9)
    assert effects.happened != pytest.approx(effects.believed, rel=0.1)


@pytest.mark.parametrize("belief", BELIEFS)
def test_gradient_promises_what_it_believes(belief):
    """To first order: the belief is the function of which the reading takes the gradient."""
    x, y = draw((4, 3, 6, 7), (5, 3, 6, 7))
    net = deep_net(belief)
    ratios = {}
    for other in BELIEFS:
        effects = step_effects(net, sgd(net, 1e-6), cubes, x, y, other)
        assert effects.promised < 0
        ratios[other] = effects.believed / effects.promised
    assert ratios.pop(belief) == pytest.approx(1, abs=2e-4)
    assert all(abs(ratio - 1) > 1e-3 for ratio in ratios.values())


def test_without_unlabeled_rows_the_corrected_step_does_what_it_believes():
    (x,) = draw((4, 3, 6, 7))
    plain = deep_net("corrected")
    effects = step_effects(plain, sgd(plain), cubes, x, None, "corrected")
    assert effects.believed == pytest.approx(effects.happened, rel=1e-10)
    assert effects.layers["cancelled"].abs().max() < 1e-10
    assert effects.layers["radial"].max() < 1e-3  # but for eps
    bn = revert_ubn(deep_net("corrected"))
    same = step_effects(bn, sgd(bn), cubes, x, None, "corrected")
    np.testing.assert_allclose(same.layers, effects.layers, rtol=1e-6, atol=1e-9)


def test_net_optimizer_and_generators_are_left_as_they_are():
    x, y = draw((4, 3, 6, 7), (5, 3, 6, 7))
    net = deep_net("shift")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    ubn_forward(net, x, y).pow(3).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    twins = copy.deepcopy((net, optimizer))
    first = step_effects(net, optimizer, cubes, x, y, "shift")
    for name, value in twins[0].state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    assert str(optimizer.state_dict()) == str(twins[1].state_dict())
    assert all(p.grad is None for p in net.parameters())
    again = step_effects(net, optimizer, cubes, x, y, "shift")
    assert again.layers.equals(first.layers)
    assert not any(layer._forward_hooks for layer in net)


def test_what_cannot_be_measured():
    x, y = draw((4, 3), (5, 3))
    norm = UnsupervisedBatchNorm1d(3, source="running", stats_grad="all")
    net = linear_net(norm)
    with pytest.raises(ValueError, match="belief is 'all' and source=\"running\""):
        step_effects(net, sgd(net), torch.sum, x, y, "all")
    twice = nn.Sequential(nn.Linear(3, 3), shared := nn.BatchNorm1d(3), nn.ReLU(), shared).double()
    convert_ubn(twice)
    with pytest.raises(ValueError, match="Layer '1' was called 2 times"):
        step_effects(twice, sgd(twice), torch.sum, x, y, "corrected")


# --- gradients by layer --------------------------------------------------------------------------


def test_gradients_of_each_layer_against_loops_in_numpy():
    x, y = draw((4, 3, 6, 7), (5, 3, 6, 7))
    net = deep_net("none")
    with gradient_flows(net) as flows:
        ubn_forward(net, x, y).pow(3).mean().backward()
    for name, linear in (("1", net[0]), ("4", net[3]), ("7", net[6])):
        measured = measure_gradients(flows[name])
        value, gradient = flows[name].x.numpy(), flows[name].gradient.numpy()
        shift = scale = radial = 0.0
        channels = value.shape[1]
        transposed = isinstance(linear, nn.ConvTranspose2d)
        for c in range(channels):
            v, g = value[:, c].ravel(), gradient[:, c].ravel()
            shift += g.mean() ** 2 * len(g)
            direction = (v - v.mean()) / np.linalg.norm(v - v.mean())
            scale += (g @ direction) ** 2
            w, dw = (
                (t[:, c] if transposed else t[c]).detach().numpy().ravel()
                for t in (linear.weight, linear.weight.grad)
            )
            radial += abs(w @ dw) / np.linalg.norm(w) / np.linalg.norm(dw) / channels
        total = (gradient**2).sum()
        np.testing.assert_allclose(measured["gradient_shift"], shift / total)
        np.testing.assert_allclose(measured["gradient_scale"], scale / total)
        np.testing.assert_allclose(measured["radial"], radial)
        np.testing.assert_allclose(measured["weight_norm"], linear.weight.norm().item())
        np.testing.assert_allclose(measured["gradient_norm"], linear.weight.grad.norm().item())


def test_share_of_a_weights_gradient_that_a_repair_takes_out():
    """The last layer's gradient with and without the repair, in whose input both agree."""
    x, y = draw((4, 3, 6, 7), (5, 3, 6, 7))
    gradients = {}
    for repair in ("none", "shift", "scale"):
        net = deep_net(repair)
        with gradient_flows(net) as flows:
            ubn_forward(net, x, y).pow(3).mean().backward()
        gradients[repair] = net[6].weight.grad
        if repair == "none":
            measured = measure_gradients(flows["7"])
        else:
            assert measure_gradients(flows["4"])[f"gradient_{repair}"] < 1e-25
    whole = gradients["none"]
    for repair in ("shift", "scale"):
        taken = ((whole - gradients[repair]) * whole).sum() / whole.square().sum()
        assert measured[f"weight_{repair}"] == pytest.approx(taken.item(), rel=1e-9)


# --- through training ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_walls(tmp_path_factory.mktemp("kitti"))


def config_of(data, norm, **options):
    small = dict(width=0.05, levels=4, steps=4, labeled_batch=2, unlabeled_batch=2, evaluations=2)
    return CancellationConfig(
        data=data.fingerprint, norm=norm, labels=EveryLabels(k=2), **small | options
    )


def test_a_recorded_run_measures_and_does_not_disturb(data):
    config = config_of(data, UBNForm(stats_grad="none", repair="shift"))
    record = run_cancellation(config, data)
    _, curves = train_depth(config, data)
    assert record.curves["loss"][0] == curves["loss"]
    assert record.curves["step"][0] == [0, 2]
    names = {"labeled_delta1", "unlabeled_delta1", "test_delta1"}
    assert set(record.metrics) == names | {f"refreshed_{name}" for name in names}
    assert record.curves["loss_before"][0] == pytest.approx(curves["loss"][::2], rel=1e-5)
    losses, layers = effects_of({"no shift": record, "again": record})
    assert losses["reading"].tolist() == ["no shift"] * 2 + ["again"] * 2
    assert losses["happened"].tolist()[:2] == record.curves["happened"][0]
    first = layers[(layers["reading"] == "no shift") & (layers["step"] == 2)].set_index("layer")
    assert list(first.index[:3]) == ["cnv1", "cnv1b", "cnv2"]
    assert first.loc["icnv1", "cancelled"] == record.curves["cancelled/icnv1"][0][1]
    assert (layers["gradient_shift"] < 1e-9).all()
    assert (layers["gradient_scale"] > 1e-9).any()
    plt.close(literal_failure.draw(losses, layers, {"no shift": "First"}))


def test_measured_runs_are_read_by_domain(data, tmp_path):
    for domain, arm in (("rooms", "literal"), ("drives", "literal"), ("drives", "corrected")):
        config = config_of(data, UBNForm(), domain=domain, arm=arm)
        write_record(recorded(lambda _: Result.of_one_seed({}, {}))(config), tmp_path)
    found = {
        domain: literal_failure.read_failure(tmp_path, domain) for domain in ("rooms", "drives")
    }
    assert {domain: set(runs) for domain, runs in found.items()} == {
        "rooms": {"literal"}, "drives": {"literal", "corrected"},
    }  # fmt: skip
    assert found["rooms"]["literal"].config["domain"] == "rooms"


def test_batch_normalization_does_what_it_believes(data):
    record = run_cancellation(config_of(data, BNConfig()), data)
    np.testing.assert_allclose(record.curves["believed"], record.curves["happened"], atol=1e-4)
    _, layers = effects_of({"BN": record})
    assert layers["cancelled"].abs().max() < 1e-2


def test_runs_that_are_refused(data):
    with pytest.raises(ValueError, match="accumulate=2"):
        config_of(data, UBNForm(), engine=EngineConfig(accumulate=2))
