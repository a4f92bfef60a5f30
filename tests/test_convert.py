"""convert_ubn and revert_ubn: the same model with another layer class, and back."""

import copy

import pytest
import torch
from torch import nn

from ubnlib import UnsupervisedBatchNorm2d, convert_ubn, revert_ubn, ubn_forward


def awkward():
    """A net with shared, frozen, untracked, affine-free, hooked and half-precision layers."""
    shared = nn.BatchNorm2d(4)
    model = nn.ModuleDict(
        {
            "shared": nn.Sequential(shared, nn.ReLU(), shared),
            "bare": nn.BatchNorm2d(4, affine=False, track_running_stats=False),
            "frozen": nn.BatchNorm1d(4, momentum=None).eval().requires_grad_(False),
            "deep": nn.Sequential(nn.Sequential(nn.BatchNorm3d(4, eps=1e-3).double())),
            "other": nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Dropout()),
        }
    )
    calls = []
    shared.register_forward_hook(lambda *_: calls.append("hook"))
    model.calls = calls
    return model


def test_everything_but_the_class_stays():
    model = awkward()
    modules = dict(model.named_modules(remove_duplicate=False))
    before = {name: (dict(m.__dict__), type(m)) for name, m in modules.items()}
    parameters = dict(model.named_parameters())
    converted = convert_ubn(model)
    assert converted is model
    after = dict(model.named_modules(remove_duplicate=False))
    assert all(after[name] is module for name, module in modules.items())
    assert all(p is parameters[n] for n, p in model.named_parameters())
    assert model["shared"][0] is model["shared"][2]
    assert isinstance(model["shared"][0], UnsupervisedBatchNorm2d)
    assert not model["frozen"].training
    revert_ubn(model)
    for name, module in model.named_modules(remove_duplicate=False):
        state, kind = before[name]
        assert type(module) is kind
        assert module.__dict__ == state


def test_checkpoints_load_strictly_both_ways():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ubn = convert_ubn(copy.deepcopy(plain))
    ubn_forward(ubn, torch.randn(2, 3, 5, 5), torch.randn(4, 3, 5, 5))
    assert plain.load_state_dict(ubn.state_dict(), strict=True)
    assert torch.equal(plain[1].running_mean, ubn[1].running_mean)
    assert ubn.load_state_dict(plain.state_dict(), strict=True)


def test_an_optimizer_made_before_still_works():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convert_ubn(model)
    before = model[1].bias.clone()
    ubn_forward(model, torch.randn(4, 2), torch.randn(4, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model[1].bias)


def test_hooks_still_run():
    model = convert_ubn(awkward())
    ubn_forward(model["shared"], torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3))
    assert model.calls == ["hook"] * 4


def test_root_that_is_a_batchnorm():
    layer = convert_ubn(nn.BatchNorm2d(8))
    assert type(layer) is UnsupervisedBatchNorm2d
    assert type(revert_ubn(layer)) is nn.BatchNorm2d


def test_preset_and_options():
    layer = convert_ubn(nn.BatchNorm2d(8), preset="paper")
    assert (layer.source, layer.stats_grad, layer.running_stat) == ("batch", "none", "std")
    assert layer.momentum == pytest.approx(0.1)
    convert_ubn(layer, preset="paper", momentum=0.25, stats_grad="all")
    assert (layer.momentum, layer.stats_grad) == (0.25, "all")
    assert "stats_grad='all', running_stat='std'" in repr(layer)
    assert "stats_grad" not in repr(convert_ubn(nn.BatchNorm2d(8)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preset": "literal"}, ValueError, "preset is 'literal': it must be one of paper"),
        ({"stats_grad": "most"}, ValueError, "stats_grad is 'most'"),
        ({"gradient": "none"}, TypeError, "'gradient' is no option"),
        ({"source": "running"}, ValueError, "track_running_stats=False does not keep"),
    ],
)
def test_refusals_leave_the_model_as_it_was(options, error, message):
    model = awkward()
    with pytest.raises(error, match=message):
        convert_ubn(model, **options)
    assert not any(type(m).__name__.startswith("Unsup") for m in model.modules())


def test_unknown_subclasses_are_left_with_a_warning():
    class Own(nn.BatchNorm2d):
        pass

    model = nn.Sequential(Own(3), nn.SyncBatchNorm(3), nn.BatchNorm2d(3))
    with pytest.warns(UserWarning, match="which convert_ubn does not know") as warned:
        convert_ubn(model)
    assert [type(m).__name__ for m in model] == ["Own", "SyncBatchNorm", "UnsupervisedBatchNorm2d"]
    assert "0 is a Own" in str(warned[0].message)
