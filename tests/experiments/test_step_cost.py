"""What a step costs: the steps that are timed are the right ones, and so is the arithmetic."""

import math
import time

import pytest
import torch

from experiments.method import step_cost
from experiments.method.step_cost import (
    METHODS,
    WARM_UP,
    StepCostConfig,
    make_steps,
    run_step_cost,
    take_turns,
)
from ubnlib.dispnet import DispNet

SMALL = dict(width=0.05, size=(32, 64), labeled=2, unlabeled=2, repeats=2)


def test_a_run_times_each_method_in_every_round():
    threads = torch.get_num_threads()
    record = run_step_cost(StepCostConfig(**SMALL))
    assert torch.get_num_threads() == threads
    assert set(record.curves) == {f"milliseconds/{method}" for method in METHODS}
    assert all(len(rounds) == 2 and min(rounds) > 0 for (rounds,) in record.curves.values())
    assert all(math.isfinite(value) and value > 0 for (value,) in record.metrics.values())


def test_ratios_are_medians_within_rounds(monkeypatch):
    """Rounds of very different speed: medians of times would say something else."""
    seconds = {"bn": [1, 10, 100], "ubn": [1.5, 14, 120], "two_steps": [2, 17, 160],
               "joint": [3, 20, 190]}  # fmt: skip
    monkeypatch.setattr(step_cost, "take_turns", lambda steps, rounds, device: seconds)
    found = run_step_cost(StepCostConfig(**SMALL)).metrics
    assert found == {
        "ubn_ratio": [pytest.approx(1.4)], "two_steps_ratio": [pytest.approx(1.7)],
        "joint_ratio": [pytest.approx(2.0)], "ubn_to_joint": [pytest.approx(120 / 190)],
        "bn_milliseconds": [10_000],
    }  # fmt: skip


def test_turns_rotate_and_the_first_do_not_count():
    calls, waits = [], {"a": 0.0, "b": 0.02}

    def step_of(name):
        def step():
            calls.append(name)
            time.sleep(waits[name])

        return step

    seconds = take_turns({name: step_of(name) for name in waits}, rounds=3)
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert calls == ["b", "a", "a", "b", "b", "a", "a", "b"][: 2 * (3 + WARM_UP)]
    assert all(b > 0.015 for b in seconds["b"]) and min(seconds["a"]) < 0.015


def test_each_method_is_what_its_name_says(monkeypatch):
    """How many rows pass through the net with and without gradient, in each method's step."""
    seen = []

    class Net(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, x):
            seen.append((len(x), torch.is_grad_enabled()))
            return (self.norm(x),)

    monkeypatch.setattr(step_cost, "DispNet", Net)
    rows = {}
    for method, step in make_steps(StepCostConfig(labeled=2, unlabeled=6)).items():
        seen.clear()
        step()
        rows[method] = sorted(seen)
    assert rows == {
        "bn": [(2, True)],
        "ubn": [(2, True), (6, False)],  # side by side: each row once
        "two_steps": [(2, True), (8, False)],
        "joint": [(8, True)],
    }


def test_steps_leave_the_gradients_of_one_backward_pass(monkeypatch):
    """The same weights and data in all methods; no gradient adds up from step to step."""
    nets = []

    def remember(width):
        nets.append(DispNet(width=width))
        return nets[-1]

    monkeypatch.setattr(step_cost, "DispNet", remember)
    steps = make_steps(StepCostConfig(**SMALL))
    first, *others = (next(net.parameters()) for net in nets)
    assert all(torch.equal(weight, first) for weight in others)
    for name, net in zip(("bn", "joint", "ubn", "two_steps"), nets, strict=True):
        steps[name]()
        *_, last = net.parameters()
        gradient = last.grad.clone()
        steps[name]()
        assert torch.equal(last.grad, gradient), name
