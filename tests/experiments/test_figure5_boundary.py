"""Figure 5: where the decision boundary is, and how far from the labeled points."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from experiments.common.training import UBNConfig
from experiments.toy import figure5_boundary as boundary
from experiments.toy.ensemble import Ensemble
from experiments.toy.figure2_boundaries import class_probability
from experiments.toy.figure5_boundary import BoundaryConfig, run_boundary, signed_distances
from experiments.toy.spiral import distance_to
from experiments.toy.train import train_spiral

SMALL = dict(width=16, steps=60, seeds=(0, 1, 2), norm=UBNConfig())


@pytest.fixture(scope="module")
def record():
    return run_boundary(BoundaryConfig(**SMALL))


def test_boundary_of_a_circle_and_distances_to_a_line():
    axis = torch.linspace(-6, 6, 161)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    circle = boundary.boundary_points(x**2 + 2 * x + y**2 - 8, axis)  # center (-1, 0), radius 3
    assert len(circle) > 200
    radius = (circle + torch.tensor([1.0, 0.0])).norm(dim=-1)
    torch.testing.assert_close(radius, torch.full_like(radius, 3.0), atol=1e-3, rtol=0)
    line = boundary.boundary_points(3 * x + 4 * y - 5, axis)
    generator = torch.Generator().manual_seed(0)
    points = 2 * torch.randn(200, 2, generator=generator, dtype=torch.float64)
    exact = (points @ torch.tensor([3.0, 4.0]).double() - 5).abs() / 5
    ours = distance_to(points, line)
    far = exact > 0.2
    torch.testing.assert_close(ours[far], exact[far], atol=5e-3, rtol=0)
    torch.testing.assert_close(ours, exact, atol=0.04, rtol=0)  # half a step of the grid
    none = boundary.boundary_points(x**2 + 1, axis)
    assert distance_to(points, none).isnan().all()


def nets_of_halves():
    """Two members without a hidden layer: class 1 lies right of x = 0, or above y = 1."""
    nets = [nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))]
    with torch.no_grad():
        for net in nets:
            net[0].weight.zero_()
            net[0].bias.zero_()
        nets[0][0].weight[1, 0] = 3.0
        nets[1][0].weight[1, 1] = 2.0
        nets[1][0].bias[1] = -2.0
    return Ensemble(nets)


def test_distances_are_below_zero_on_the_wrong_side():
    """Class 1 lies right of x = 0 for the first net, and above y = 1 for the second."""
    points = torch.tensor([[2.0, 3.0], [-1.0, 0.5], [0.5, -2.0]])
    labels = torch.tensor([1, 0, 0])
    distance = signed_distances(nets_of_halves(), points[:, None].expand(-1, 2, -1), labels)
    exact = torch.tensor([[2.0, 2.0], [1.0, 0.5], [-0.5, 3.0]])
    torch.testing.assert_close(distance, exact, atol=0.02, rtol=0)


def test_run_measures_the_net_that_it_trains(record):
    """Distances are found again by brute force, along rays from each point."""
    net, data, _ = train_spiral(BoundaryConfig(**SMALL))
    angle = torch.linspace(0, 2 * np.pi, 121)[:-1]
    reach = torch.arange(1, 301) * 0.02
    rays = reach[:, None, None] * torch.stack([angle.cos(), angle.sin()], -1)  # [R, A, 2]
    found = []
    for point, label in zip(data.labeled[:, 1], data.labels, strict=True):
        around = point + rays
        inside = (around.abs() <= 6).all(-1)
        ends = torch.cat([point[None], around[inside]])
        side = class_probability(net, ends)[:, 1] > 0.5
        crossed = reach[:, None].expand(-1, 120)[inside][side[1:] != side[0]].min()
        found.append(float(crossed) * (1 if bool(side[0]) == bool(label) else -1))
    found.sort()
    np.testing.assert_allclose(record.curves["distance"][1], found, atol=0.05)
    assert record.metrics["distance"][1] == pytest.approx(np.mean(found), abs=0.03)
    near = float(np.mean(found[:12]))
    assert record.metrics["near_distance"][1] == pytest.approx(near, abs=0.03)


def test_room_is_what_the_midway_line_leaves(record):
    """Neighboring turns are 1.4 apart, so that the line midway leaves each at most about 0.7."""
    for near, room in zip(
        record.metrics["near_distance"], record.metrics["near_room"], strict=True
    ):
        assert 0 < near + room < 0.75


def test_figure_has_the_mean_over_seeds(record):
    table = boundary.distance_table({"BN": record, "UBN": record})
    each = np.array(record.curves["distance"])
    np.testing.assert_allclose(table["distance"][:50], each.mean(0), rtol=1e-6)
    figure = boundary.draw(table)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["BN", "UBN"]
    assert f"BN {each[:, :12].mean():.3f}" in figure.get_label()
    plt.close(figure)
