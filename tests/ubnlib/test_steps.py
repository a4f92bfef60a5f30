"""Misuse of the two steps ends in a sentence, and no state is left behind."""

import copy
import pickle

import pytest
import torch
from torch import nn

from ubnlib import (
    UnsupervisedBatchNorm1d,
    collecting,
    convert_ubn,
    monte_carlo_predictions,
    refresh_statistics,
    statistics_gap,
    ubn_forward,
    using,
)
from ubnlib.forward import two_passes


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, 4), UnsupervisedBatchNorm1d(4), nn.ReLU(), UnsupervisedBatchNorm1d(4)
    )


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 2, generator=generator), torch.randn(9, 2, generator=generator)


def test_model_without_a_ubn_layer(batches):
    plain = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="Sequential has no UBN layer: convert it"):
        ubn_forward(plain, *batches)
    assert ubn_forward(plain, batches[0], None).shape == (5, 4)


def test_sync_batchnorm_conversion_is_noticed(model, batches):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with pytest.raises(ValueError, match="no UBN layer"):
        ubn_forward(model, *batches)


def test_using_before_collecting(model, batches):
    with pytest.raises(RuntimeError, match="No statistics were collected"), using(model):
        model(batches[0])


def test_steps_do_not_nest(model, batches):
    with pytest.raises(RuntimeError, match="do not nest"), collecting(model), collecting(model):
        model(batches[0])
    ubn_forward(model, *batches)  # and the refusal left nothing behind


def test_eval_mode(model, batches):
    with pytest.raises(RuntimeError, match=r"call model\.train\(\) first"):
        ubn_forward(model.eval(), *batches)


def test_layers_frozen_in_eval_mode_act_as_batchnorm_there(model, batches):
    frozen = model[1].eval()
    frozen.running_mean.fill_(0.5)
    ubn_forward(model, *batches)
    assert torch.equal(frozen.running_mean, torch.full((4,), 0.5))
    assert model[3].num_batches_tracked == 1


def test_different_shapes(model):
    with pytest.raises(ValueError, match=r"shape \(2,\) and the unlabeled ones \(3,\)"):
        ubn_forward(model, torch.randn(4, 2), torch.randn(4, 3))


def test_data_parallel(model, batches):
    with pytest.raises(TypeError, match="use DistributedDataParallel"):
        ubn_forward(nn.DataParallel(model), *batches)


def test_exception_in_either_step_leaves_no_state(model, batches):
    x, y = batches
    with pytest.raises(KeyError), collecting(model):
        model(torch.cat([x, y]))
        raise KeyError
    with pytest.raises(RuntimeError, match="No statistics were collected"), using(model):
        model(x)
    with collecting(model):
        model(torch.cat([x, y]))
    with pytest.raises(KeyError), using(model):
        raise KeyError
    plain = model(x)  # outside a step again
    torch.testing.assert_close(plain.mean(0), torch.zeros(4), atol=1e-6, rtol=0)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = UnsupervisedBatchNorm1d(2), UnsupervisedBatchNorm1d(2)

    def forward(self, x):
        return self.second(self.first(x)) if len(x) > 6 else self.first(x)


def test_layer_reached_in_step_1_only(batches):
    with pytest.raises(RuntimeError, match="1 of 2 UBN layers were reached in step 1 and not"):
        two_passes(Branching(), *batches)


def test_layer_reached_more_often_in_step_2(model, batches):
    with collecting(model):
        model(torch.cat(batches))
    message = "called 2 times in step 2 but was called 1 times"
    with pytest.raises(RuntimeError, match=message), using(model):
        model(batches[0])
        model(batches[0])


def test_one_labeled_value_has_a_forward_but_no_corrected_gradient(model, batches):
    x, y = batches[0][:1], batches[1]
    with pytest.raises(ValueError, match="at least 2 labeled values per channel"):
        ubn_forward(model, x, y)
    assert ubn_forward(convert_ubn(model, stats_grad="none"), x, y).shape == (1, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stats_grad": "some"}, "stats_grad is 'some': it must be one of 'corrected', 'none'"),
        ({"source": "epoch"}, "source is 'epoch': it must be one of 'batch', 'running'"),
        ({"running_stat": "mad"}, "running_stat is 'mad'"),
        ({"decay": 0.9, "momentum": 0.2}, "they are one setting, decay = 1 - momentum"),
        ({"source": "running", "track_running_stats": False}, "does not keep"),
        ({"source": "running", "stats_grad": "labeled"}, 'goes with source="batch" only'),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        UnsupervisedBatchNorm1d(4, **options)


@pytest.mark.parametrize("stats_grad", ["corrected", "all"])
def test_model_can_be_copied_and_pickled_after_a_step(model, batches, stats_grad):
    convert_ubn(model, stats_grad=stats_grad)
    output = ubn_forward(model, *batches)
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    output.sum().backward()
    for twin in twins:
        assert twin[1].stats_grad == stats_grad
        assert torch.equal(twin.eval()(batches[0]), copy.deepcopy(model).eval()(batches[0]))


# --- diagnostics --------------------------------------------------------------------------------


def test_gap_equals_its_definition():
    model = nn.Sequential(UnsupervisedBatchNorm1d(2, eps=1e-12).double())
    x = torch.randn(6, 2, dtype=torch.float64)
    y = 1 + 2 * torch.randn(10, 2, dtype=torch.float64)
    ubn_forward(model, x, y)
    n = torch.cat([x, y])
    means = (x.mean(0) - y.mean(0)) ** 2 / n.var(0, correction=0)
    scales = (x.var(0, correction=0).log() - y.var(0, correction=0).log()) ** 2
    torch.testing.assert_close(statistics_gap(model), (means + scales / 4).mean())


def test_gap_is_zero_for_equal_batches_and_grows_with_a_shift(model, batches):
    x, _ = batches
    ubn_forward(model, x, x)
    assert statistics_gap(model) < 1e-8
    gaps = []
    for shift in (0.5, 1.0, 2.0):
        ubn_forward(model, x, x + shift)
        gaps.append(statistics_gap(model).item())
    assert gaps == sorted(gaps)
    assert gaps[0] > 1e-3


def test_gap_is_differentiable(model, batches):
    x, y = batches
    ubn_forward(model, x, y + 1)
    statistics_gap(model).backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_gap_needs_a_step(model):
    with pytest.raises(RuntimeError, match="made no UBN step"):
        statistics_gap(model)


def test_refreshed_statistics_are_those_of_the_population(model):
    first = nn.Sequential(model[0], model[1])
    data = torch.randn(23, 2) * 3 + 1
    refresh_statistics(first, data.split([3, 13, 7]))
    hidden = model[0](data).detach()
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, hidden.var(0))
    assert model[1].num_batches_tracked == 0


def test_refresh_restores_everything_after_an_exception(model, batches):
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        refresh_statistics(model, [batches[0], torch.randn(3, 7)])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m.training or m._forward_pre_hooks for m in model.modules())


def test_refresh_refuses_what_it_cannot_do(model):
    with pytest.raises(ValueError, match="no batch to refresh"):
        refresh_statistics(model, [])
    with pytest.raises(ValueError, match="no layer that keeps running statistics"):
        refresh_statistics(nn.Linear(2, 2), [torch.randn(3, 2)])


def test_monte_carlo_predictions_use_each_reference_and_leave_the_model(model, batches):
    x, y = batches
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    predictions = monte_carlo_predictions(model, x, [y, y + 1, y])
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


def test_monte_carlo_predictions_differentiate_the_inputs(model, batches):
    x = batches[0].clone().requires_grad_()
    monte_carlo_predictions(model, x, [batches[1]]).sum().backward()
    assert x.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="no reference batch"):
        monte_carlo_predictions(model, x, [])


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, foreach=True, momentum=0.9),
        lambda p: torch.optim.Adam(p),
        lambda p: torch.optim.AdamW(p, fused=True),
    ],
)
def test_statistics_of_weights_that_have_moved(model, batches, optimizer):
    x, y = batches
    optimizer = optimizer(model.parameters())
    with collecting(model):
        model(torch.cat([x, y]))
    with using(model):
        model(x).sin().sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="weights have changed since its statistics were"):
        with using(model):
            pass
    convert_ubn(model, stats_grad="none")
    with using(model, allow_stale=True):
        assert model(x).shape == (5, 4)
    ubn_forward(model, x, y)
    with pytest.raises(RuntimeError, match="No statistics were collected"), using(model):
        pass
    with collecting(model):
        model(torch.cat([x, y]))
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    with pytest.raises(RuntimeError, match="weights have changed"), using(model):
        pass


@pytest.mark.parametrize("stats_grad", ["corrected", "labeled", "all"])
def test_micro_batches_are_refused_where_their_gradient_would_be_wrong(model, batches, stats_grad):
    x, y = batches
    convert_ubn(model, stats_grad=stats_grad)
    with collecting(model):
        model(torch.cat([x, y]))
    with using(model):
        model(x[:3])
    message = f"entered again with stats_grad='{stats_grad}', whose gradient needs all"
    with pytest.raises(RuntimeError, match=message), using(model):
        model(x[3:])


def test_a_failed_collection_moves_no_average(model, batches):
    with pytest.raises(ArithmeticError), collecting(model):
        model(torch.cat(batches))
        raise ArithmeticError
    assert model[1].num_batches_tracked == 0 and not model[1].running_mean.any()
    with pytest.raises(RuntimeError, match="No statistics were collected"), using(model):
        pass


def test_a_hook_reads_the_statistics_of_the_step(model, batches):
    x, y = batches
    seen = []

    def read(layer, inputs, output):
        if len(inputs[0]) == len(x):
            seen.append(layer.last_step[-1])

    model[1].register_forward_hook(read)
    ubn_forward(model, x, y)
    (call,) = seen
    h, g = model[0](x), model[0](y)
    torch.testing.assert_close(call.labeled.mean, h.mean(0))
    torch.testing.assert_close(call.unlabeled.var, g.var(0, correction=0))
    torch.testing.assert_close(call.union.mean, torch.cat([h, g]).mean(0))
    assert (call.labeled.count, call.unlabeled.count, call.union.count) == (5, 9, 14)


def test_rows_of_the_combined_batch_must_be_told_apart(model, batches):
    convert_ubn(model, unlabeled_weight=0.5)
    with pytest.raises(ValueError, match="needs to know which rows are labeled"):
        with collecting(model):
            model(torch.cat(batches))
    with pytest.raises(RuntimeError, match="gets 14 rows for the 4 labeled and 9 unlabeled"):
        with collecting(model, rows=(4, 9)):
            model(torch.cat(batches))


def test_gap_after_step_1_only(model, batches):
    with collecting(model):
        model(torch.cat(batches))
    with pytest.raises(RuntimeError, match="has made step 1 only"):
        statistics_gap(model)


def test_a_finished_step_can_be_copied_and_pickled_after_it(model, batches):
    ubn_forward(model, *batches).sum()
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert again[1].last_step == () and len(model[1].last_step) == 1
