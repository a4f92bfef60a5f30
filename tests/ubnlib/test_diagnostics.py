"""The gap of labeled and unlabeled statistics, refreshed statistics, Monte Carlo predictions."""

import copy
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ubnlib import (
    UnsupervisedBatchNorm1d,
    collecting,
    convert_ubn,
    monte_carlo_predictions,
    refresh_statistics,
    revert_ubn,
    statistics_gap,
    ubn_forward,
    using,
)
from ubnlib.forward import two_passes, ubn_layers


def test_gap_equals_its_definition():
    model = nn.Sequential(UnsupervisedBatchNorm1d(2, eps=1e-12).double())
    x = torch.randn(6, 2, dtype=torch.float64)
    y = 1 + 2 * torch.randn(10, 2, dtype=torch.float64)
    ubn_forward(model, x, y)
    n = torch.cat([x, y])
    means = (x.mean(0) - y.mean(0)) ** 2 / n.var(0, correction=0)
    scales = (x.var(0, correction=0).log() - y.var(0, correction=0).log()) ** 2
    torch.testing.assert_close(statistics_gap(model), (means + scales / 4).mean())


def test_gap_needs_a_whole_step(model, batches):
    with pytest.raises(RuntimeError, match="made no UBN step"):
        statistics_gap(model)
    with collecting(model):
        model(torch.cat(batches))
    with pytest.raises(RuntimeError, match="has made step 1 only"):
        statistics_gap(model)
    ubn_forward(model, *batches)
    assert not statistics_gap(model).requires_grad
    with pytest.raises(RuntimeError, match="keep_graph=True"):
        statistics_gap(model, gradient=True)


def test_refreshed_statistics_are_those_of_the_population(model):
    data = torch.randn(23, 2) * 3 + 1
    refresh_statistics(model[:2], data.split([3, 13, 7]))
    hidden = model[0](data).detach()
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, hidden.var(0))
    assert model[1].num_batches_tracked == 0


class FromDict(nn.Module):
    """Takes a mapping or keywords, and gives a mapping, as models of language and vision do."""

    def __init__(self):
        super().__init__()
        self.net = convert_ubn(nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)))

    def forward(self, batch=None, *, x=None):
        out = self.net(batch["x"] if x is None else x)
        return {"out": out, "parts": (out.sum(1), None), "named": Pair(out, out[:, 0])}


class Pair(NamedTuple):
    whole: torch.Tensor
    part: torch.Tensor


def test_refresh_takes_what_loaders_give():
    data = torch.randn(9, 2) + 1
    parts = data.split([4, 5])
    for batches, options in [
        ([(part, torch.zeros(3)) for part in parts], {}),
        ([[part, "name"] for part in parts], {"device": "cpu"}),
        ([{"x": part, "y": 0} for part in parts], {"device": "cpu"}),
        ([("name", part) for part in parts], {"call": lambda batch: model(x=batch[1])}),  # noqa: B023
    ]:
        model = FromDict() if isinstance(batches[0], (dict, tuple)) else FromDict().net
        if not options:
            model = model.net
        refresh_statistics(model, batches, **options)
        (norm,) = (module for module in model.modules() if isinstance(module, nn.BatchNorm1d))
        torch.testing.assert_close(norm.running_mean, data.mean(0))
    model, seen = nn.Sequential(nn.BatchNorm1d(2)).to("meta"), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].is_meta))
    refresh_statistics(model, [(part, "name") for part in parts], device="meta")
    assert seen == [True, True]


def test_frozen_layers_are_not_refreshed():
    """As in fvcore's precise_bn: a layer in eval mode in a model that trains."""
    model = convert_ubn(nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.BatchNorm1d(2)))
    model[0].eval(), model[1].eval()
    before, x = {k: v.clone() for k, v in model[0].state_dict().items()}, torch.randn(9, 2) + 5
    refresh_statistics(model, [x])
    assert all(torch.equal(before[k], v) for k, v in model[0].state_dict().items())
    torch.testing.assert_close(model[2].running_mean, x.mean(0), rtol=1e-4, atol=1e-4)
    assert [m.training for m in model.modules()] == [True, False, False, True]
    model[2].eval()
    with pytest.raises(ValueError, match="is frozen, in eval mode in a model that trains"):
        refresh_statistics(model, [x])
    refresh_statistics(model.eval(), [x])
    torch.testing.assert_close(model[0].running_mean, x.mean(0))
    assert not any(m.training for m in model.modules())


def test_refresh_restores_everything_after_an_exception(model, batches):
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        refresh_statistics(model, [batches[0], torch.randn(3, 7)])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m.training or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="no batch to refresh"):
        refresh_statistics(model, [])
    with pytest.raises(ValueError, match="no layer that keeps running statistics"):
        refresh_statistics(nn.Linear(2, 2), [torch.randn(3, 2)])


def moments(x):
    return x.mean((0, 2)), x.var((0, 2), correction=0)


def gap_by_hand(x, y, union, eps=1e-5):
    """The formula of `statistics_gap` for one layer."""
    (mx, vx), (my, vy), (_, vn) = x, y, union
    return ((mx - my) ** 2 / (vn + eps) + ((vx + eps).log() - (vy + eps).log()) ** 2 / 4).mean()


def constant(pair):
    return tuple(value.detach() for value in pair)


def one_layer(**options):
    x, y = torch.randn(5, 3, 4).double(), 1 + 2 * torch.randn(9, 3, 4).double()
    model = convert_ubn(nn.Sequential(nn.BatchNorm1d(3)).double(), keep_graph=True, **options)
    return model, x.requires_grad_(), y.requires_grad_()


def test_the_gaps_gradient_is_that_of_its_definition():
    model, x, y = one_layer(stats_grad="all")
    ubn_forward(model, x, y, interleave=True)
    gap = statistics_gap(model, gradient=True)
    expected = gap_by_hand(moments(x), moments(y), moments(torch.cat([x, y])))
    torch.testing.assert_close(gap, expected)
    found, wanted = (torch.autograd.grad(each, (x, y)) for each in (gap, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("forward", [partial(ubn_forward, interleave=True), two_passes])
def test_with_other_readings_it_reaches_the_labeled_rows(forward):
    model, x, y = one_layer(stats_grad="none")
    forward(model, x, y)
    gap = statistics_gap(model, gradient=True)
    found = torch.autograd.grad(gap, (x, y), materialize_grads=True)
    union, labeled = moments(torch.cat([x.detach(), y])), moments(x)
    expected = gap_by_hand(labeled, constant(moments(y)), constant(union))
    torch.testing.assert_close(found[0], torch.autograd.grad(expected, x)[0])
    assert not found[1].any()


def test_a_gap_of_no_step_is_refused():
    model, x, y = one_layer(stats_grad="all")
    with pytest.raises(RuntimeError, match="has made no UBN step: call ubn_forward"):
        statistics_gap(model, gradient=True)
    two_passes(model, x, y)
    with pytest.raises(RuntimeError, match="no gradient to the labeled rows in two passes"):
        statistics_gap(model, gradient=True)
    two_passes(model, x, y[:0])
    with pytest.raises(ValueError, match="had no unlabeled rows"):
        statistics_gap(model, gradient=True)


def test_monte_carlo_predictions_use_each_reference_and_leave_the_model(model, batches):
    x, y = batches
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    predictions = monte_carlo_predictions(model, x.requires_grad_(), [y, y + 1, y])
    assert predictions.shape == (3, 5, 4)
    assert torch.equal(predictions[0], predictions[2])
    assert not torch.allclose(predictions[0], predictions[1])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m.training for m in model.modules())
    assert all(m.stats_grad == "corrected" for m in (model[1], model[3]))

    def normalized(v, reference):
        mean, var = reference.mean(0), reference.var(0, correction=0)
        return (v - mean) / (var + 1e-5).sqrt()

    h, g = model[0](x), model[0](y)
    h, g = normalized(h, g).relu(), normalized(g, g).relu()
    torch.testing.assert_close(predictions[0], normalized(h, g))
    predictions.sum().backward()
    assert x.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="no reference batch"):
        monte_carlo_predictions(model, x, [])


def test_monte_carlo_predictions_need_no_weight(model, batches):
    """A reference batch has one kind of rows, whatever their weight in training."""
    inputs, reference = batches
    expected = monte_carlo_predictions(model, inputs, [reference])
    weighted = convert_ubn(model, unlabeled_weight=0.25)
    assert torch.equal(monte_carlo_predictions(weighted, inputs, [reference]), expected)
    assert {layer.unlabeled_weight for layer in ubn_layers(weighted)} == {0.25}


def test_monte_carlo_predictions_leave_the_last_step(model, batches):
    (x, y), plain = batches, revert_ubn(copy.deepcopy(model))
    ubn_forward(model, x, y)
    before = statistics_gap(model)
    monte_carlo_predictions(model, x, [y + 1])
    refresh_statistics(model, [y + 1])
    assert torch.equal(statistics_gap(model), before)
    with collecting(model):
        model(torch.cat([x, y]))
    monte_carlo_predictions(model, x, [y + 1])
    with using(model):
        torch.testing.assert_close(model(x), plain(torch.cat([x, y]))[:5])


def test_monte_carlo_predictions_leave_frozen_layers_frozen(model, batches):
    x, y = batches
    model[1].eval().running_mean.fill_(0.5)
    model[1].running_var.fill_(4.0)
    (found,) = monte_carlo_predictions(model, x, [y])
    h, g = (((model[0](v) - 0.5) / (4.0 + 1e-5) ** 0.5).relu() for v in (x, y))
    torch.testing.assert_close(found, (h - g.mean(0)) / (g.var(0, correction=0) + 1e-5).sqrt())
    assert [m.training for m in model] == [True, False, True, True]


def test_gradients_beside_a_frozen_layer(model, batches):
    x, y = batches
    model[1].eval()
    kept = ubn_forward(model, x, y)
    refresh_statistics(model, [y])
    predictions = monte_carlo_predictions(model, x, [y])
    (predictions.sum() + kept.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_monte_carlo_predictions_go_with_dropout_in_a_model_in_eval_mode(model, batches):
    x, y = batches
    model.append(nn.Dropout(0.5)).eval()
    expected = monte_carlo_predictions(model, x, [y])
    model[-1].train()
    found = monte_carlo_predictions(model, x, [y])
    kept = found != 0
    assert 0 < kept.float().mean() < 1
    torch.testing.assert_close(found[kept], 2 * expected[kept])


def test_inputs_without_channels_are_refused_as_torch_does(model):
    with pytest.raises(ValueError, match=r"expected 2D or 3D input \(got 1D input\)"):
        refresh_statistics(model[1], [torch.randn(4)])
    with pytest.raises(ValueError, match="expected 2D or 3D input"), torch.no_grad():
        model[1](torch.randn(4))


def test_monte_carlo_predictions_of_trees():
    model, x = FromDict().eval(), torch.randn(4, 2)
    references = [torch.randn(7, 2) + shift for shift in range(3)]
    found = monte_carlo_predictions(model, {"x": x}, [{"x": r} for r in references])
    expected = monte_carlo_predictions(model.net, x, references)
    assert expected.shape == (3, 4, 2) and type(found["named"]) is Pair
    torch.testing.assert_close(found["out"], expected)
    torch.testing.assert_close(found["named"].part, expected[..., 0])
    torch.testing.assert_close(found["parts"][0], expected.sum(-1))
    assert found["parts"][1] is None


def test_predictions_between_forward_and_backward_do_not_disturb_it(model, batches):
    x, y = batches
    for predicted in (model(x), model.eval()(x)):
        monte_carlo_predictions(model, x, [y])
        predicted.sum().backward()


def test_a_gap_without_the_gradient_that_is_asked_for_is_refused(model, batches):
    convert_ubn(model, keep_graph=True)
    with torch.no_grad():
        ubn_forward(model, *batches)
    with pytest.raises(RuntimeError, match="The gap has no gradient"):
        statistics_gap(model, gradient=True)
    ubn_forward(model, *batches)
    assert statistics_gap(model, gradient=True).requires_grad


def test_nothing_is_refreshed_by_empty_batches(model):
    for batches in ([torch.ones(0, 2)], [torch.ones(0, 2)] * 2):
        with pytest.raises(ValueError, match="no batch to refresh"):
            refresh_statistics(model, batches)


def test_compiled_parts_are_refreshed_too():
    """A graph of an earlier call may not know of hooks that came later."""
    body = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), backend="aot_eager")
    model = nn.Sequential(nn.BatchNorm1d(3), body)
    x = torch.randn(64, 3)
    with torch.no_grad():
        model(x)
    refresh_statistics(model, [5 + 2 * x])
    out = model.eval()(5 + 2 * x)
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(0), torch.ones(4), atol=0.05, rtol=0)


@pytest.mark.parametrize("interleave", [False, True])
def test_there_is_no_gap_without_labeled_rows(model, batches, interleave):
    convert_ubn(model, stats_grad="none")
    ubn_forward(model, batches[0][:0], batches[1], interleave=interleave)
    assert statistics_gap(model) == 0


def test_a_layer_that_no_unlabeled_row_reaches_has_no_share_in_the_gap():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x):
            return self.second(self.first(x[:, :2])[x[:, 2] > 0])

    model = convert_ubn(Masked())
    x, y = torch.randn(6, 3).abs(), -torch.randn(8, 3).abs()
    ubn_forward(model, x, y)
    gap = statistics_gap(model)
    ubn_forward(convert_ubn(alone := nn.Sequential(nn.BatchNorm1d(2))), x[:, :2], y[:, :2])
    torch.testing.assert_close(gap, statistics_gap(alone))


def test_several_references_leave_a_checkpoints_backward_as_it_was():
    model = convert_ubn(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()))
    x, y = torch.randn(6, 3), torch.randn(9, 3)

    def gradient(*references):
        out = ubn_forward(
            model, x, y, call=lambda rows: checkpoint(model, rows, use_reentrant=True)
        )
        monte_carlo_predictions(model, x, references) if references else None
        model.zero_grad()
        out.square().sum().backward()
        return model[0].weight.grad

    x.requires_grad_()
    y.requires_grad_()
    expected = gradient()
    torch.testing.assert_close(gradient(y.detach(), y.detach() + 1), expected)
