"""UBN steps in other people's models: generated ones, and the uses that once gave wrong numbers."""

import copy
import gc
import weakref
from contextlib import nullcontext
from operator import is_

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from generated_nets import PLANS, joint_step, oracle_step, step
from small_nets import network, objective, rows
from ubnlib import convert_ubn, ubn_forward

READINGS = ["corrected", "none", "labeled", "all"]
both_ways = pytest.mark.parametrize("interleave", [False, True])
no_gradient_in_step_1 = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


def way(interleave):
    return lambda model, x, y: ubn_forward(model, x, y, interleave=interleave)


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


# Generated models


@no_gradient_in_step_1
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    PLANS,
    st.sampled_from(READINGS),
    st.booleans(),
    st.sampled_from([None, False, True]),
    st.sampled_from([None, None, 0.3, 1.0]),
)
def test_a_step_is_one_joint_pass_of_batch_normalization(
    plan, reading, interleave, reentrant, weight
):
    reentrant = None if reading == "all" else reentrant  # they do not go together
    options = dict(stats_grad=reading, unlabeled_weight=weight)
    ours, seen = step(plan, way(interleave), options, reentrant)
    n, m = plan.rows
    joinable = plan.one_size and weight is None
    assert seen == ([m, n] if interleave or not joinable else [n + m, n])
    assert_close(ours, oracle_step(plan, **options))
    if joinable:
        joint = joint_step(plan)
        assert_close(
            ours if reading == "all" else ours[:2], joint if reading == "all" else joint[:2]
        )


@no_gradient_in_step_1
@settings(max_examples=50, deadline=None, derandomize=True)
@given(PLANS, st.sampled_from(READINGS[:3]), st.booleans(), st.booleans())
def test_checkpointing_changes_nothing_with_dropout(plan, reading, interleave, reentrant):
    kept, again = (
        step(plan, way(interleave), dict(stats_grad=reading), how, 0.4) for how in (None, reentrant)
    )
    assert_close(again, kept)


# Gradients in forward, hooks, modes, parametrizations


class Scaled(nn.Module):
    """Looks at gradients in three ways."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.norm = kind, nn.BatchNorm2d(3).double()

    def forward(self, x):
        h = self.norm(x)
        if self.kind == "register_hook":
            h.register_hook(lambda g: 0.1 * g)
        elif self.kind == "autograd.grad":
            return h + torch.autograd.grad(h.sin().sum(), h, create_graph=True)[0]
        elif not torch.is_grad_enabled():
            return 0 * h
        return h


@both_ways
@pytest.mark.parametrize("kind", ["register_hook", "autograd.grad", "is_grad_enabled"])
def test_models_that_look_at_gradients(kind, interleave):
    x, y = rows(4, 1).requires_grad_(), rows(6, 2)
    model = convert_ubn(nn.Sequential(Scaled(kind), nn.BatchNorm2d(3).double()), stats_grad="none")
    output = ubn_forward(model, x, y, record=True, interleave=interleave)
    h = nn.BatchNorm2d(3).double()(torch.cat([x, y])).detach()
    h = h + h.cos() if kind == "autograd.grad" else h
    torch.testing.assert_close(output, nn.BatchNorm2d(3).double()(h)[:4])
    if kind == "is_grad_enabled":
        return
    if kind == "register_hook":  # constants: the slope is 1 / sigma of both layers
        (grad,) = torch.autograd.grad(output.sum(), x)
        first, second = model[0].norm.last_step[0].union, model[1].last_step[0].union
        slope = 0.1 / ((first.var + 1e-5) * (second.var + 1e-5)).sqrt()
        torch.testing.assert_close(grad, slope.view(1, 3, 1, 1).expand_as(x))
    with pytest.raises(RuntimeError) as refused:
        ubn_forward(model, x, y, interleave=interleave)
    assert any("record=True" in note for note in refused.value.__notes__)


@both_ways
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("size", [4, 64])
def test_a_hook_and_an_attribute_hold_the_labeled_rows_with_a_graph(size, layers, interleave):
    model = convert_ubn(nn.Sequential(*[nn.BatchNorm2d(3) for _ in range(layers)], nn.ReLU()))
    model[-1].register_forward_hook(lambda module, _, output: setattr(module, "kept", output))
    x = torch.randn(4, 3, size, size, requires_grad=True)
    output = ubn_forward(model, x, torch.randn(6, 3, size, size), interleave=interleave)
    assert len(model[-1].kept) == 4 and model[-1].kept is output and output.requires_grad


class Double(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        return 2 * output if func is torch.conv2d else output


@both_ways
def test_modes_of_torch_see_all_rows(interleave):
    torch.manual_seed(0)
    model = convert_ubn(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    x, y = torch.randn(8, 3, 9, 9), torch.randn(24, 3, 9, 9)

    def flops(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    once = flops(lambda: model[0](torch.cat([x, y])))
    labeled = flops(lambda: model[0](x))
    found = flops(lambda: ubn_forward(model, x, y, interleave=interleave))
    assert found == once + labeled or (interleave and found == once)
    with Double():
        ubn_forward(model, x, y, interleave=interleave)
    (call,) = model[1].last_step
    for part, given_rows in ((call.labeled, x), (call.unlabeled, y)):
        h = 2 * model[0](given_rows)
        torch.testing.assert_close(part.var, h.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        ubn_forward(model, x, y, interleave=interleave).sum().backward()
    assert packed and model[0].weight.grad is not None


@both_ways
@pytest.mark.parametrize("reading", READINGS)
def test_weights_that_are_cached_around_a_step_keep_their_gradient(reading, interleave):
    def grads(around, inside):
        model = convert_ubn(network(), stats_grad=reading)
        parametrizations.weight_norm(model[0])

        def call(batch):
            with inside():
                return model(batch)

        with around():
            output = ubn_forward(model, rows(3, 1), rows(5, 2), interleave=interleave, call=call)
        objective(output).backward()
        return [p.grad for p in model.parameters()]

    plain = grads(nullcontext, nullcontext)
    assert_close(grads(parametrize.cached, nullcontext), plain)
    assert_close(grads(nullcontext, parametrize.cached), plain)
    assert not parametrize._cache and not parametrize._cache_enabled


@both_ways
def test_weights_and_averages_that_a_call_gives(interleave):
    """Against batch normalization over all rows in one pass, of a net that has them."""
    plain, model = network(1), convert_ubn(network(0), stats_grad="all")
    given = {name: value.clone() for name, value in plain.state_dict().items()}
    weights = [given[name].requires_grad_() for name, _ in plain.named_parameters()]
    own = [*model.parameters(), *model.buffers()]
    before = copy.deepcopy(model.state_dict())
    output = ubn_forward(
        model,
        rows(3, 1),
        rows(5, 2),
        interleave=interleave,
        call=lambda batch: torch.func.functional_call(model, given, (batch,)),
    )
    expected = plain(torch.cat([rows(3, 1), rows(5, 2)]))[:3]
    assert_close(output, expected)
    assert_close(
        torch.autograd.grad(objective(output), weights),
        torch.autograd.grad(objective(expected), list(plain.parameters())),
    )
    assert_close([given[name] for name, _ in plain.named_buffers()], list(plain.buffers()))
    assert all(map(is_, own, [*model.parameters(), *model.buffers()]))
    assert_close(model.state_dict(), before)


class Noting(nn.Module):
    """Adds by an attribute what came before a normalization; counts its calls."""

    def __init__(self):
        super().__init__()
        self.norm, self.calls = nn.BatchNorm1d(2), 0

    def forward(self, x):
        self.before, self.calls = x, self.calls + 1
        x = self.norm(x) + self.before
        del self.before
        self.after = x
        return x


@both_ways
def test_a_module_notes_in_attributes_what_it_reads_behind_a_layer(interleave):
    plain = nn.Sequential(Noting(), nn.Linear(2, 2), Noting()).double()
    model = convert_ubn(copy.deepcopy(plain))
    x, y = torch.randn(3, 2).double(), torch.randn(5, 2).double()
    output = ubn_forward(model, x, y, interleave=interleave)
    assert_close(output, plain(torch.cat([x, y]))[:3])
    assert model[2].after is output and not hasattr(model[0], "before")
    assert model[0].calls == (1 if interleave else 2)


class TimeMajor(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x):
        h = self.norm(x.transpose(0, 1).flatten(0, 1))
        return h.unflatten(0, (x.size(1), -1)).transpose(0, 1)


@both_ways
def test_unlabeled_weight_where_rows_do_not_come_first(interleave):
    model = convert_ubn(TimeMajor(), unlabeled_weight=0.75)
    ubn_forward(model, torch.zeros(2, 2, 1), torch.full((2, 2, 1), 4.0), interleave=interleave)
    assert model.norm.last_step[0].union.mean.item() == 3  # 0.25 * 0 + 0.75 * 4


# Derivatives


@both_ways
@pytest.mark.parametrize("reading", ["labeled", "all"])
def test_second_derivatives_by_finite_differences(reading, interleave):
    torch.manual_seed(0)
    model = convert_ubn(nn.Sequential(nn.BatchNorm1d(2)).double(), stats_grad=reading)
    x, y = torch.randn(3, 2).double().requires_grad_(), torch.randn(4, 2).double()
    assert torch.autograd.gradgradcheck(lambda x: way(interleave)(model, x, y).sin(), (x,))


@both_ways
def test_functional_transforms_and_forward_mode_are_refused(interleave, model, batches):
    x, y = batches
    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.func.grad(lambda x: way(interleave)(model, x, y).sum())(x)
    with pytest.raises(RuntimeError, match="forward"), forward_ad.dual_level():
        way(interleave)(model, forward_ad.make_dual(x, torch.ones_like(x)), y)
    assert way(interleave)(model, x, y).requires_grad


# What is kept


@both_ways
@pytest.mark.parametrize("reading", READINGS)
def test_activations_die_with_the_output_and_statistics_are_constants(reading, interleave):
    model, alive = convert_ubn(network(), stats_grad=reading), []
    for layer in model:
        layer.register_forward_hook(
            lambda _, __, output: alive.append(weakref.ref(output.untyped_storage()))
        )
    output = ubn_forward(model, rows(3, 1), rows(5, 2), interleave=interleave)
    assert sum(ref() is not None for ref in alive) >= 3
    for call in model[1].last_step:
        parts = call.union, call.labeled, call.unlabeled, call.reference
        assert not any(v.requires_grad for part in parts for v in part[:2])
    del output
    gc.collect()
    assert not any(ref() for ref in alive)
    if reading == "all" and not interleave:
        return  # both parts pass as one
    model[1].configure(keep_graph=True)
    _ = ubn_forward(model, rows(3, 1), rows(5, 2), interleave=interleave)
    assert model[1].last_step[0].labeled.mean.requires_grad
    assert not copy.deepcopy(model)[1].last_step


class BuiltAtTheFirstCall(nn.Module):
    """Makes a layer, a weight and a scale when it is first called."""

    def __init__(self):
        super().__init__()
        self.norm, self.built = nn.BatchNorm1d(2), False
        self.register_parameter("weight", None)
        self.scale = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        if not self.built:
            self.layer, self.built = nn.Linear(2, 2).double(), True
            self.scale.data.copy_(x.std(0))
        if self.weight is None:
            self.weight = nn.Parameter(torch.randn(2).double())
        return self.norm(self.layer(x) * self.weight) * self.scale


def test_what_is_built_at_the_first_call_is_built_once():
    model = convert_ubn(BuiltAtTheFirstCall().double())
    x, y = torch.randn(3, 2).double(), torch.randn(5, 2).double()
    output = ubn_forward(model, x, y, interleave=True)
    assert_close(output, ubn_forward(model, x, y))
    output.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
