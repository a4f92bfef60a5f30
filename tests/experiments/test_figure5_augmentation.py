"""Figure 5: implicit augmentation, and what its displacements do."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from experiments.common.training import BNConfig, UBNConfig
from experiments.toy import figure5_augmentation as figure5
from experiments.toy.ensemble import Ensemble
from experiments.toy.figure5_augmentation import (
    Augmentation,
    AugmentationConfig,
    _up_to,
    changes_of_statistics,
    implicit_augmentation,
    measure,
    share_of_any_change,
)
from experiments.toy.plane import plane
from experiments.toy.spiral import distance_to_arms, make_spiral, tangent
from experiments.toy.train import SpiralTraining, frozen, member_data, train_spiral
from ubnlib import convert_ubn, monte_carlo_predictions

SMALL = dict(width=16, steps=60, seeds=(0, 1, 2), norm=UBNConfig())


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def trained():
    return train_spiral(SpiralTraining(**SMALL))


@pytest.fixture(scope="module")
def changes(trained):
    return changes_of_statistics(SpiralTraining(**SMALL), trained.data, 2)


def shifted_net():
    """Two members: an identity, then one UBN layer."""
    identity = nn.Linear(2, 2)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(2))
        identity.bias.zero_()
    return convert_ubn(Ensemble([nn.Sequential(identity, nn.BatchNorm1d(2))] * 2))


# --- implicit augmentation --------------------------------------------------------------------


def test_shift_and_scale_of_the_batch_are_undone_by_the_same():
    """One UBN layer behind an identity: new statistics are those of a moved and scaled plane."""
    net, points = shifted_net(), random(9, 2, 2)
    before = random(3, 64, 2, 2, seed=1)
    scale = torch.tensor([1.5, 0.8], dtype=torch.float64)
    after = before * scale + torch.tensor([0.3, -0.2])
    found = implicit_augmentation(net, points, before, after, "layer1", tolerance=1e-9)
    mean, deviation = before.mean(1), (before.var(1, correction=0) + 1e-5).sqrt()
    new_mean, new_deviation = after.mean(1), (after.var(1, correction=0) + 1e-5).sqrt()
    normalized = (points - mean[:, None]) / deviation[:, None]
    expected = normalized * new_deviation[:, None] + new_mean[:, None]
    assert found.converged.all()
    torch.testing.assert_close(found.moved, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.explained, torch.ones_like(found.explained))


def test_moved_points_have_the_earlier_predictions(trained, changes):
    """Seen by `monte_carlo_predictions`, which shares no code with the readings."""
    before, after = changes
    points = trained.data.labeled
    found = implicit_augmentation(trained.net, points, before, after)
    assert 0.6 < found.converged.double().mean() < 1
    net = train_spiral(SpiralTraining(**SMALL)).net.double()
    for change in range(2):
        (old,) = monte_carlo_predictions(net, points.double(), [before[change].double()])
        (new,) = monte_carlo_predictions(net, found.moved[change], [after[change].double()])
        difference = ((new - old)[..., 1] - (new - old)[..., 0]).abs()
        assert torch.equal(difference <= 1e-3, found.converged[change])


def test_first_layers_augmentation_is_the_affine_map_of_least_squares(trained, changes):
    """Layer 1 is linear in the plane, so that numpy has the answer."""
    before, after = (batches.double() for batches in changes)
    points = trained.data.labeled.double()
    found = implicit_augmentation(trained.net, points, before, after, "layer1", tolerance=1e-9)
    linear, norm = trained.net.layers[0], trained.net.layers[1]
    for member in range(3):
        weight = linear.weight[member].detach().double().numpy()
        scale = norm.weight.detach().double().unflatten(0, (3, -1))[member].numpy()
        old, new = before[0, :, member].numpy() @ weight.T, after[0, :, member].numpy() @ weight.T
        hidden = points[:, member].numpy() @ weight.T
        target = (hidden - old.mean(0)) / np.sqrt(old.var(0) + 1e-5) * scale
        slope = weight * (scale / np.sqrt(new.var(0) + 1e-5))[:, None]
        constant = -new.mean(0) / np.sqrt(new.var(0) + 1e-5) * scale
        expected = np.linalg.lstsq(slope, (target - constant).T, rcond=None)[0].T
        np.testing.assert_allclose(found.moved[0, :, member].numpy(), expected, atol=2e-4)
    share = figure5.affine_share(points.expand_as(found.moved), found.moved, found.converged)
    torch.testing.assert_close(share, torch.ones_like(share), atol=1e-4, rtol=0)


def test_augmentation_leaves_the_nets_alone(trained, changes):
    net = trained.net
    before = {name: value.clone() for name, value in net.state_dict().items()}
    implicit_augmentation(net, trained.data.labeled, *changes, "layer2")
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    for name, value in net.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_a_layer_that_is_not_there_is_refused():
    batch = random(1, 8, 2, 2)
    with pytest.raises(ValueError, match="no layer2 to match: the nets have 1 normalization"):
        implicit_augmentation(shifted_net(), random(3, 2, 2), batch, batch, "layer2")


# --- what displacements do --------------------------------------------------------------------


def test_tangent_share_of_known_displacements():
    points, _ = make_spiral(400, 0.0)
    points = points[100:400].double()
    step = points[1:] - points[:-1]  # along the arm
    start = points[:-1]
    assert figure5.tangent_share(start, start + 0.1 * step).min() > 0.999
    across = torch.stack([step[:, 1], -step[:, 0]], dim=1)
    assert figure5.tangent_share(start, start + 0.1 * across).max() < 1e-3
    assert figure5.tangent_share(start, start).isnan().all()


def test_affine_share_of_maps_and_of_noise():
    points = random(2, 50, 3, 2)
    used = torch.ones(2, 50, 3, dtype=torch.bool)
    mapped = points @ random(2, 2, seed=3) + random(2, seed=4)
    share = figure5.affine_share(points, mapped, used)
    torch.testing.assert_close(share, torch.ones(2, 3, dtype=torch.float64))
    used[:, 40:] = False  # ten that went elsewhere do not count
    mapped[:, 40:] += 100
    share = figure5.affine_share(points, mapped, used)
    torch.testing.assert_close(share, torch.ones(2, 3, dtype=torch.float64))
    many = random(500, 40, 1, 2)
    noise = figure5.affine_share(many, many + random(500, 40, 1, 2, seed=5), many[..., 0] > -9)
    assert noise.mean() == pytest.approx(3 / 40, rel=0.1)
    used[:, 3:] = False
    assert figure5.affine_share(points, mapped, used).isnan().all()


def test_measures_of_known_moves():
    """Two nets: moves outward and moves along the arm; lost and resting points do not count."""
    points = torch.stack([random(20, 2) + 3, random(20, 2, seed=1) + 3], 1)
    moved = points.clone()
    moved[:, 0] += 0.2 * points[:, 0] / points[:, 0].norm(dim=-1, keepdim=True)
    moved[:, 1] += 0.3 * tangent(points[:, 1])
    moved[7:12, 1] = points[7:12, 1]  # five of the second stay: they have no direction
    moved[15:] += 50
    converged = torch.ones(1, 20, 2, dtype=torch.bool)
    converged[:, 15:] = False
    explained = torch.linspace(0, 1, 40).double().reshape(1, 20, 2)
    numbers = measure(points, Augmentation(moved[None], converged, explained))
    near = lambda name: numbers[name].tolist()  # noqa: E731
    assert near("converged") == [0.75, 0.75]
    assert near("length") == pytest.approx([0.2, 0.3])
    assert near("explained") == pytest.approx(explained[0, 7].tolist())
    radius = points[:15, 0].norm(dim=-1)
    rate = 5 / (1.75 * 2 * np.pi)
    outward = (rate**2 / (rate**2 + radius**2)).mean()
    assert near("tangent_share") == pytest.approx([float(outward), 1])
    ends = torch.cat([figure5.isotropic(points, moved)[:, :15, 0]]).flatten(0, 1)
    ratio = distance_to_arms(moved[:15, 0]).mean() / distance_to_arms(ends).mean()
    assert near("arms_ratio")[0] == pytest.approx(float(ratio))


@pytest.mark.parametrize("reading", ["prediction", "layer1", "layer3"])
def test_share_of_any_change_by_pseudoinverses(trained, changes, reading):
    """A random change r is undone by J+ r, whose covariance is J+ J+', by finite differences."""
    reference = changes[0][0]
    points = trained.data.labeled[::7].double()
    part = _up_to(frozen(trained.net, reference).double(), reading)
    steps = 1e-7 * torch.eye(2, dtype=torch.float64)
    slopes = [(part(points + step) - part(points - step)) / 2e-7 for step in steps]
    inverse = np.linalg.pinv(torch.stack(slopes, -1).numpy(), rcond=1e-6)
    covariance = inverse @ inverse.swapaxes(-1, -2)
    along = tangent(points).numpy()[..., None]
    squares = (along.swapaxes(-1, -2) @ covariance @ along)[..., 0, 0]
    expected = (squares / covariance.trace(axis1=-1, axis2=-2)).mean(0)
    share = share_of_any_change(trained.net, points, reference, reading)
    np.testing.assert_allclose(share.numpy(), expected, atol=1e-4)


# --- the run and the picture ------------------------------------------------------------------


def test_contradictions_are_refused():
    with pytest.raises(ValidationError, match="expected labeled_batch below 50"):
        AugmentationConfig(norm=BNConfig(), labeled_batch=50)
    with pytest.raises(ValidationError, match="names one twice"):
        AugmentationConfig(readings=("layer1", "layer1"))


def test_figure_leaves_out_what_did_not_converge(trained, changes):
    data = member_data(trained.data, 0)
    found = implicit_augmentation(trained.net, trained.data.labeled, *changes)
    probability = torch.linspace(0, 1, len(plane()))
    moved, converged = found.moved[:, :, 0], found.converged[:, :, 0].clone()
    panels = [
        figure5.Panel("all", data, probability, moved, torch.ones_like(converged)),
        figure5.Panel("some", data, probability, moved, converged),
    ]
    converged[0, :7] = False
    lost = int((~converged).sum())
    figure = figure5.draw(panels)
    assert [axes.get_title() for axes in figure.axes] == [
        "all", f"some\n{lost} of 100 not converged",
    ]  # fmt: skip
    plt.close(figure)
    table = figure5.table(panels)
    assert len(table) == 200
    assert (~table["converged"]).sum() == lost
    row = table.iloc[100 + 50 + 3]  # the second panel's second change
    assert row[["moved_x", "moved_y"]].tolist() == moved[1, 3].tolist()
    assert row[["x", "y"]].tolist() == pytest.approx(data.labeled[3].tolist())
