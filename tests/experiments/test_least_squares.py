"""The solver behind Figure 5: against closed forms and scipy."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from experiments.toy.least_squares import match


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 2**31), st.floats(0.2, 5), st.floats(0.2, 5), st.floats(-math.pi, math.pi))
@settings(deadline=None, max_examples=12)
def test_solver_undoes_rotation_scale_and_shift_of_features(seed, wide, high, angle):
    """Features of a turned, scaled and shifted plane equal the plane's where it is turned back."""
    weight = random(5, 2, seed=seed % 1000) + torch.eye(5, 2)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    ).double() @ torch.diag(torch.tensor([wide, high], dtype=torch.float64))
    shift = random(2, seed=7)
    points = random(6, 3, 2, seed=8)
    found = match(
        lambda x: (x @ turn.T + shift) @ weight.T,
        points @ weight.T,
        points,
        tolerance=1e-8,
        longest=9.0,
        steps=200,
    )
    assert found.matched.all()
    expected = torch.linalg.solve(turn, (points - shift).flatten(0, 1).T).T.view_as(points)
    torch.testing.assert_close(found.moved, expected, atol=1e-5, rtol=0)


def test_one_value_is_matched_by_the_shortest_displacement():
    slope = torch.tensor([0.6, -1.1], dtype=torch.float64)
    start, wanted = random(40, 2), random(40, 1, seed=1)
    found = match(lambda x: (x @ slope)[..., None], wanted, start, tolerance=1e-9)
    assert found.matched.all()
    shortest = (wanted - (start @ slope)[:, None]) * slope / slope.square().sum()
    torch.testing.assert_close(found.moved - start, shortest, atol=1e-8, rtol=0)


def test_least_squares_answers_are_scipys():
    def curved(x):
        u, v = x[..., 0], x[..., 1]
        return torch.stack([u.sin(), u * v, v.square() - u, (v / 2).exp()], -1)

    start, target = random(12, 2), curved(random(12, 2, seed=1)) + 0.3 * random(12, 4, seed=2)
    found = match(curved, target, start, shortest=1e-9, steps=200)
    assert found.settled.all()
    assert not found.matched.any()
    reached = found.residual.square().sum(-1)
    for index in range(12):
        ours = found.moved[index].numpy()
        oracle = least_squares(
            lambda x, i=index: (curved(torch.tensor(x)) - target[i]).numpy(), ours, xtol=1e-12
        )
        assert 2 * oracle.cost == pytest.approx(reached[index].item(), rel=1e-6)


def test_a_target_out_of_reach_is_reported():
    start = random(20, 2)
    found = match(lambda x: x[..., :1].tanh(), torch.full((20, 1), 1.5, dtype=torch.float64), start)
    assert not found.matched.any()
    assert (found.residual < -0.49).all()
    hill = match(
        lambda x: -x.square().sum(-1, keepdim=True), torch.ones(20, 1).double(), start, steps=200
    )
    assert hill.settled.all()
    assert not hill.matched.any()
    assert hill.moved.abs().max() < 0.05  # at the top, 1 below the target
    torch.testing.assert_close(hill.residual, -torch.ones_like(hill.residual), atol=2e-3, rtol=0)


def test_a_search_that_runs_out_of_steps_is_not_settled():
    found = match(lambda x: x, 10 + torch.zeros(3, 2).double(), torch.zeros(3, 2).double(), steps=2)
    assert not found.settled.any()
    assert (found.moved.norm(dim=-1) <= 2 * 0.25 + 1e-9).all()  # two of the longest steps


def test_flat_and_undefined_places_move_nothing():
    start = random(5, 2)
    flat = match(lambda x: 0 * x, torch.ones(5, 2).double(), start)
    assert torch.equal(flat.moved, start)
    assert flat.settled.all()
    assert not flat.matched.any()
    edge = match(  # not a number left of 0, where the search wants to go
        lambda x: x.sqrt(), -torch.ones(1, 2).double(), torch.full((1, 2), 1e-3).double()
    )
    assert edge.moved.isfinite().all()
    assert edge.residual.isfinite().all()
