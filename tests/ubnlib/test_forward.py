"""Misuse of the two steps ends in a sentence, and no state is left behind."""

import copy

import pytest
import torch
from torch import nn

from ubnlib import UnsupervisedBatchNorm1d, collecting, convert_ubn, ubn_forward, using


def collect(model, batches):
    with collecting(model):
        model(torch.cat(batches))


def test_model_without_a_ubn_layer(model, batches):
    plain = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    for none in (plain, nn.SyncBatchNorm.convert_sync_batchnorm(model)):
        with pytest.raises(ValueError, match="Sequential has no UBN layer: convert it"):
            ubn_forward(none, *batches)
    assert ubn_forward(plain, batches[0], None).shape == (5, 4)


def test_what_cannot_be_stepped(model, batches):
    with pytest.raises(TypeError, match="use DistributedDataParallel"):
        ubn_forward(nn.DataParallel(model), *batches)
    with pytest.raises(TypeError, match="use DistributedDataParallel"):
        ubn_forward(nn.Sequential(nn.DataParallel(model)), *batches)
    with pytest.raises(ValueError, match="at least 2 labeled values per channel"):
        ubn_forward(model, batches[0][:1], batches[1])
    for interleave in (False, True):
        with pytest.raises(ValueError, match="The combined batch has 0 value"):
            ubn_forward(*[convert_ubn(nn.BatchNorm2d(3)), torch.ones(2, 3, 0, 4),
                          torch.ones(2, 3, 0, 4)], interleave=interleave)  # fmt: skip
    with pytest.raises(RuntimeError, match=r"call model\.train\(\) first"):
        ubn_forward(model.eval(), *batches)
    none = convert_ubn(model.train(), stats_grad="none")
    assert ubn_forward(none, batches[0][:1], batches[1]).shape == (1, 4)


@pytest.mark.parametrize("interleave", [False, True])
def test_a_step_through_a_copy_of_the_model(model, batches, interleave):
    average = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="unlabeled rows did nothing: was `call` given a copy"):
        ubn_forward(model, *batches, interleave=interleave, call=average)
    assert model[1]._step is None and model[1].num_batches_tracked == 0


def test_steps_do_not_nest(model, batches):
    with pytest.raises(RuntimeError, match="do not nest"), collecting(model), collecting(model):
        model(batches[0])
    ubn_forward(model, *batches)  # and the refusal left nothing behind


def test_layers_frozen_in_eval_mode_act_as_batchnorm_there(model, batches):
    frozen = model[1].eval()
    frozen.running_mean.fill_(0.5)
    ubn_forward(model, *batches)
    assert torch.equal(frozen.running_mean, torch.full((4,), 0.5))
    assert model[3].num_batches_tracked == 1


def test_nothing_moves_in_step_2_nor_in_a_step_that_fails(model, batches):
    with pytest.raises(ArithmeticError), collecting(model):
        model(torch.cat(batches))
        raise ArithmeticError
    assert model[1].num_batches_tracked == 0 and not model[1].running_mean.any()
    with pytest.raises(RuntimeError, match="No statistics were collected"), using(model):
        pass
    collect(model, batches)
    before = [b.clone() for b in model.buffers()]
    with pytest.raises(KeyError), using(model):
        model(batches[0])
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    plain = model(batches[0])  # outside a step again
    torch.testing.assert_close(plain.mean(0), torch.zeros(4), atol=1e-6, rtol=0)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = UnsupervisedBatchNorm1d(2), UnsupervisedBatchNorm1d(2)

    def forward(self, x):
        return self.second(self.first(x)) if len(x) > 6 else self.first(x)


def test_both_steps_must_reach_the_same_layers(model, batches):
    with pytest.raises(RuntimeError, match="1 of 2 UBN layers were reached in step 1 and not"):
        ubn_forward(Branching(), *batches)
    collect(model, batches)
    message = "called 2 times in step 2 but was called 1 times"
    with pytest.raises(RuntimeError, match=message), using(model):
        model(batches[0])
        model(batches[0])


@pytest.mark.parametrize("stats_grad", ["corrected", "labeled", "all"])
def test_micro_batches_are_refused_where_their_gradient_would_be_wrong(model, batches, stats_grad):
    convert_ubn(model, stats_grad=stats_grad)
    collect(model, batches)
    with using(model):
        model(batches[0][:3])
    message = f"entered again with stats_grad='{stats_grad}', whose gradient needs all"
    with pytest.raises(RuntimeError, match=message), using(model):
        model(batches[0][3:])


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, foreach=True, momentum=0.9),
        lambda p: torch.optim.AdamW(p, fused=True),
    ],
)
def test_statistics_of_weights_that_have_moved(model, batches, optimizer):
    x, y = batches
    optimizer = optimizer(model.parameters())
    collect(model, batches)
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
    collect(model, batches)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    with pytest.raises(RuntimeError, match="weights have changed"), using(model):
        pass


def test_rows_of_the_combined_batch_must_be_told_apart(model, batches):
    convert_ubn(model, unlabeled_weight=0.5)
    with pytest.raises(ValueError, match="needs to know which rows are labeled"):
        collect(model, batches)
    with pytest.raises(RuntimeError, match="gets 14 rows for the 4 labeled and 9 unlabeled"):
        with collecting(model, rows=(4, 9)):
            model(torch.cat(batches))


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


def test_a_step_2_that_failed_can_be_made_again(model, batches):
    collect(model, batches)
    with pytest.raises(MemoryError), using(model):
        model(batches[0])
        raise MemoryError
    with using(model):
        again = model(batches[0])
    torch.testing.assert_close(again, ubn_forward(model, *batches))


def test_a_step_1_without_gradient_is_none_for_the_joint_reading(model, batches):
    convert_ubn(model, stats_grad="all")
    with torch.no_grad():
        collect(model, batches)
    x = batches[0].requires_grad_()
    with pytest.raises(RuntimeError, match="Step 1 was made without gradient"), using(model):
        model(x)


def test_averages_stay_where_tracking_is_off_during_the_call(model, batches):
    before = model[1].running_mean.clone()

    def untracked(batch):
        model[1].track_running_stats = False
        try:
            return model(batch)
        finally:
            model[1].track_running_stats = True

    ubn_forward(model, *batches, call=untracked)
    assert torch.equal(model[1].running_mean, before) and model[3].running_mean.any()


def test_a_layer_without_a_count_of_batches_moves_its_averages(model, batches):
    model[1].num_batches_tracked = None
    ubn_forward(model, *batches)
    assert model[1].running_mean.any()


def test_what_has_by_chance_as_many_rows_is_not_cut(model, batches):
    def with_numbers(batch):
        return model(batch), torch.arange(14.0)

    with pytest.raises(ValueError, match="interleave=True"):
        ubn_forward(model, *batches, call=with_numbers, return_unlabeled=True)


def test_a_step_that_fails_moves_no_average(model, batches):
    """Whichever part of it fails, so that it can be made once more."""
    before = copy.deepcopy(model.state_dict())
    for ways in ({}, {"interleave": True}):
        with pytest.raises(ValueError, match="at least 2 labeled values"):
            ubn_forward(model, batches[0][:1], batches[1], **ways)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="cannot be divided by rows"):
        ubn_forward(model, *batches, return_unlabeled=True, call=lambda rows: model(rows).sum())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
