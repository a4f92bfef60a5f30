"""convert_ubn and revert_ubn: the same model with another layer class, and back."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from ubnlib import (
    UnsupervisedBatchNorm1d,
    UnsupervisedBatchNorm2d,
    convert_ubn,
    register_norm,
    revert_ubn,
)
from ubnlib.batchnorm import SWITCHES, UnsupervisedBatchNorm, UnsupervisedSyncBatchNorm
from ubnlib.convert import BN_OF, UBN_OF
from ubnlib.forward import collecting, ubn_forward

# Older parts of torch (jit, quantization, weight_norm) say that there are newer ones.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


class BatchNormXd(_BatchNorm):
    """Of any dimension, as Lightning's for what was a SyncBatchNorm."""

    def _check_input_dim(self, x):
        pass


class FrozenBatchNorm2d(nn.Module):
    """Fixed statistics and no batch normalization, like torchvision's."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))

    def forward(self, x):
        return x * self.scale[:, None, None]


class Tower(nn.Module):
    """Residual, with one norm called twice, as models outside of nn.Sequential are."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return x + self.norm(self.conv(self.norm(x)))


class Own2d(nn.BatchNorm2d):
    """A subclass that convert_ubn cannot know."""

    def forward(self, x):
        return super().forward(x)[:, ::2]


class Inheriting2d(nn.BatchNorm2d):
    """A subclass that adds no more than a check."""

    def _check_input_dim(self, x):
        assert x.dim() == 4


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm's: torch's forward in a copy, then a dropout and an activation."""

    __module__ = "timm.layers.norm_act"

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU(inplace=True)

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        buffers, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        x = F.batch_norm(x, *buffers, *affine, self.training, self.momentum, self.eps)
        return self.act(self.drop(x))


class Squared2d(BatchNormAct2d):
    __module__ = __name__

    def forward(self, x):
        return BatchNormAct2d.forward(self, x) ** 2


register_norm(Squared2d, behind=lambda layer, normalized: layer.act(layer.drop(normalized)) ** 2)


@register_norm
class Gated2d(nn.BatchNorm2d):
    """By cooperation, with parameters and an argument of its own."""

    def __init__(self, channels):
        super().__init__(channels)
        self.gate = nn.Linear(channels, channels)

    def forward(self, x, scale=2.0):
        return super().forward(x) * scale * self.gate(x.mean((2, 3))).sigmoid()[..., None, None]


class GatedAgain2d(Gated2d):
    """Registered with its parent, whose forward it has."""


class OwnUBN2d(UnsupervisedBatchNorm2d):
    """A subclass that revert_ubn cannot know."""


def net(*layers):
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), *layers, nn.ReLU())


def changed(norm, **attributes):
    for name, value in attributes.items():
        setattr(norm, name, value)
    return norm


def tied():
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    second.weight = first.weight
    second.running_mean = first.running_mean
    return net(first, nn.Conv2d(4, 4, 1), second)


def frozen_in_part():
    model = net(nn.BatchNorm2d(4).eval(), nn.BatchNorm2d(4).requires_grad_(False))
    model[1].bias.requires_grad_(False)
    return model


def with_user_state():
    norm = changed(nn.BatchNorm2d(4, momentum=0.3), nickname="norm", limits=[1, 2])
    norm.register_buffer("seen", torch.arange(3), persistent=False)
    norm.register_buffer("kept", torch.arange(2))
    norm.register_module("child", nn.Linear(1, 1))
    return net(norm)


ZOO = {
    "conv_net": lambda: net(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, eps=1e-3)),
    "root": lambda: nn.BatchNorm2d(4),
    "sync_nested": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(net(Tower())),
    "called_twice": Tower,
    "tied_parameters_and_buffers": tied,
    "untracked": lambda: net(nn.BatchNorm2d(4, track_running_stats=False)),
    "cumulative": lambda: net(nn.BatchNorm2d(4, momentum=None)),
    "frozen_in_part": frozen_in_part,
    "bfloat16": lambda: net(nn.BatchNorm2d(4)).bfloat16(),
    "meta": lambda: net(nn.BatchNorm2d(4)).to("meta"),
    "other_norms": lambda: net(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), FrozenBatchNorm2d(4)),
    "user_state": with_user_state,
    "weight_norm": lambda: net(nn.utils.weight_norm(nn.BatchNorm2d(4))),
    "inheriting": lambda: net(Inheriting2d(4)),
    "norm_act": lambda: net(BatchNormAct2d(4), nn.BatchNorm2d(4)),
    "squared": lambda: net(Squared2d(4)),
    "gated": lambda: net(Gated2d(4), GatedAgain2d(4)),
    "lightning_unsynced": lambda: net(BatchNormXd(4)),
    "data_parallel": lambda: nn.DataParallel(net(nn.BatchNorm2d(4))),
}
# torch refuses to copy or pickle it, converted or not; its class is not where it says.
NO_COPY = {"weight_norm", "norm_act"}
zoo = pytest.mark.parametrize("kind", ZOO)
running_zoo = pytest.mark.parametrize("kind", [k for k in ZOO if k != "meta"])


def build(kind):
    """Build the same model at every call."""
    torch.manual_seed(0)
    return ZOO[kind]()


def inputs(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 4, 6, 6, generator=generator)
    dtypes = [p.dtype for p in model.parameters()] or [x.dtype]
    return x.to(dtypes[0])


def snapshot(model):
    """Return everything that a model's modules hold, each container copied once."""
    return {
        name: (
            type(module),
            {
                key: copy.copy(value) if isinstance(value, dict) else value
                for key, value in vars(module).items()
            },
        )
        for name, module in model.named_modules(remove_duplicate=False)
    }


def same_tensors(one, other):
    """Whether two state_dicts have the same names, in this order, and values, bit by bit."""
    return list(one) == list(other) and all(
        not isinstance(value, torch.Tensor)
        or value.is_meta
        or (value.dtype == other[name].dtype and torch.equal(value, other[name]))
        for name, value in one.items()
    )


@zoo
def test_convert_changes_the_class_alone_and_revert_gives_back_everything(kind):
    model = build(kind)
    before, values = snapshot(model), copy.deepcopy(model.state_dict())
    modules = list(model.named_modules(remove_duplicate=False))
    parameters = list(model.parameters())
    settings = [(p.requires_grad, p.dtype, p.device) for p in parameters]

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert convert_ubn(model) is model

    for one, other in zip(modules, model.named_modules(remove_duplicate=False), strict=True):
        (name, module), (old_class, old) = other, before[other[0]]
        assert one == (name, module) and type(module) is UBN_OF.get(old_class, old_class)
        assert {key: vars(module)[key] for key in old} == old
        assert vars(module).keys() == old.keys() or type(module) in BN_OF
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert [(p.requires_grad, p.dtype, p.device) for p in parameters] == settings
    assert same_tensors(model.state_dict(), values)

    for options in (
        dict(decay=0.5, stats_grad="none"), dict(momentum=None), dict(preset="paper"), dict(),
    ):  # fmt: skip
        convert_ubn(model, **options)
    assert revert_ubn(model) is model
    assert snapshot(model) == before
    assert same_tensors(model.state_dict(), values)


@running_zoo
def test_outputs_averages_and_checkpoints_are_those_of_batchnorm(kind):
    plain, ubn = build(kind), convert_ubn(build(kind))
    x = inputs(plain)
    for _ in range(2):
        assert torch.equal(plain(x), ubn(x))
        assert same_tensors(plain.state_dict(), ubn.state_dict())
    assert torch.equal(plain.eval()(x), ubn.eval()(x))
    for source, target in [(ubn, build(kind)), (plain, convert_ubn(build(kind), preset="paper"))]:
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        target.load_state_dict(torch.load(file, weights_only=True), strict=True)
        assert same_tensors(target.state_dict(), source.state_dict())


@pytest.mark.parametrize("kind", sorted(ZOO.keys() - NO_COPY))
def test_copies_and_pickles_revert_as_the_model_does_after_a_step(kind):
    model = convert_ubn(convert_ubn(build(kind), preset="paper"), decay=0.6)
    if kind not in ("meta", "data_parallel", "other_norms"):
        ubn_forward(model, inputs(model), inputs(model, seed=2))

    def norms(model):
        return [(str(m), vars(m).keys()) for m in model.modules() if type(m) in UBN_OF]

    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        assert same_tensors(twin.state_dict(), model.state_dict())
        for one, other in zip(twin.modules(), model.modules(), strict=True):
            if type(one) in BN_OF:
                assert [vars(one)[s] for s in SWITCHES] == [vars(other)[s] for s in SWITCHES]
        revert_ubn(twin)
        assert norms(twin) == norms(build(kind))
        assert not any(isinstance(module, UnsupervisedBatchNorm) for module in twin.modules())


SUBCLASSES = ["inheriting", "norm_act", "squared", "gated", "lightning_unsynced"]


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_subclasses_normalize_by_both_batches_and_keep_what_they_do_besides(kind):
    plain, model = build(kind).double(), convert_ubn(build(kind).double())
    x, y = inputs(plain), inputs(plain, seed=2) * 3 + 1
    joint = plain(torch.cat([x, y]))[: len(x)]
    torch.testing.assert_close(ubn_forward(model, x, y), joint)
    torch.testing.assert_close(model.state_dict(), plain.state_dict())
    for one, other in zip(model.modules(), plain.modules(), strict=True):
        assert isinstance(one, type(other))  # as those expect who go by the class


def test_only_classes_whose_forward_can_be_known_are_registered():
    for norm in (nn.BatchNorm2d, UnsupervisedBatchNorm2d, nn.GroupNorm, nn.BatchNorm2d(4)):
        with pytest.raises(TypeError, match="cannot be registered: give a subclass"):
            register_norm(norm)
    with pytest.raises(ValueError, match=r"BatchNormAct2d.forward does not call super\(\).forward"):
        register_norm(BatchNormAct2d)

    class Ghost(nn.BatchNorm1d):
        def forward(self, x):
            return torch.cat([super(Ghost, self).forward(part) for part in x.chunk(2)])

    assert register_norm(Ghost) is Ghost  # whose call is inside of a comprehension


def test_a_momentum_set_by_the_user_is_kept():
    norm = convert_ubn(nn.BatchNorm2d(4), preset="paper")
    assert norm.momentum == 1 - 0.9  # which is not 0.1
    assert revert_ubn(copy.deepcopy(norm)).momentum == 0.1
    norm.momentum = 0.05
    assert revert_ubn(copy.deepcopy(norm)).momentum == 0.05
    convert_ubn(norm, decay=0.25)
    assert revert_ubn(norm).momentum == 0.05


def test_layers_made_as_ubn_revert_to_their_own_settings():
    layer = UnsupervisedBatchNorm1d(4, eps=1e-3, decay=0.75, stats_grad="all", affine=False)
    assert repr(revert_ubn(layer)) == repr(nn.BatchNorm1d(4, 1e-3, 0.25, affine=False))
    assert vars(layer).keys() == vars(nn.BatchNorm1d(4)).keys()


def test_a_compiled_model_notices_that_it_was_converted_and_reverted():
    inner = build("conv_net")[:2]
    model, oracle = torch.compile(inner, backend="eager"), convert_ubn(copy.deepcopy(inner))
    x, y = torch.randn(3, 4, 6, 6), torch.randn(9, 4, 6, 6) + 1
    plain = model(x)
    converted = ubn_forward(convert_ubn(model), x, y)
    torch.testing.assert_close(converted, ubn_forward(oracle, x, y))
    assert not torch.allclose(converted, plain, atol=0.1)
    assert torch.equal(revert_ubn(model)(x), plain)


def test_preset_and_options():
    layer = convert_ubn(nn.BatchNorm2d(8), preset="paper")
    assert (layer.source, layer.stats_grad, layer.running_stat) == ("batch", "none", "std")
    assert layer.momentum == pytest.approx(0.1)
    convert_ubn(layer, preset="paper", momentum=0.25, stats_grad="all", unlabeled_weight=0.5)
    assert (layer.momentum, layer.stats_grad, layer.unlabeled_weight) == (0.25, "all", 0.5)
    assert "stats_grad='all', running_stat='std'" in repr(layer)
    assert convert_ubn(layer, preset="paper").unlabeled_weight is None
    assert "stats_grad" not in repr(convert_ubn(nn.BatchNorm2d(8)))


def test_sync_batchnorm_keeps_its_process_group():
    group = object()
    layer = convert_ubn(nn.SyncBatchNorm(4, process_group=group))
    assert type(layer) is UnsupervisedSyncBatchNorm
    assert layer.process_group is group
    assert revert_ubn(layer).process_group is group


def parametrized(norm):
    parametrize.register_parametrization(norm, "weight", nn.Identity())
    return norm


UNKNOWN = [
    (convert_ubn, "Own2d", lambda: Own2d(4)),
    (convert_ubn, "ParametrizedBatchNorm2d", lambda: parametrized(nn.BatchNorm2d(4))),
    (convert_ubn, "BatchNorm2d", lambda: changed(nn.BatchNorm2d(4), forward=abs)),
    (convert_ubn, "BatchNorm2d", lambda: torch.ao.nn.quantized.BatchNorm2d(4)),
    (revert_ubn, "OwnUBN2d", lambda: OwnUBN2d(4)),
]


@pytest.mark.parametrize(("change", "kind", "make"), UNKNOWN)
def test_unknown_layers_are_left_with_a_warning(change, kind, make):
    root, nested = make(), nn.ModuleDict({"norm": make(), "known": nn.BatchNorm2d(4)})
    before, before_nested = snapshot(root), snapshot(nested["norm"])
    with pytest.warns(
        UserWarning, match=f"{change.__name__} leaves 1 of 1 .*: the model"
    ) as warned:
        change(root)
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning) as warned:
        change(nested)
    assert f"layers as they are: norm ({kind}: it" in str(warned[0].message)
    assert len(warned) == 1
    assert snapshot(root) == before
    assert snapshot(nested["norm"]) == before_nested
    assert isinstance(nested["known"], UnsupervisedBatchNorm) == (change is convert_ubn)


def test_one_warning_names_the_layers_that_are_left():
    left = [Own2d(4) for _ in range(12)] + [changed(nn.BatchNorm2d(4), forward=abs)]
    with pytest.warns(UserWarning) as warned:
        convert_ubn(nn.Sequential(nn.BatchNorm2d(4), *left))
    (warning,) = warned
    assert (
        "leaves 13 of 14 layers as they are: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more "
        "(Own2d: its class is not registered); 13 (BatchNorm2d: its forward was replaced). See "
    ) in str(warning.message)


def test_own_ubn_classes_and_parametrized_ones_take_options():
    model = nn.Sequential(OwnUBN2d(4), parametrized(UnsupervisedBatchNorm2d(4)))
    convert_ubn(model, stats_grad="none", decay=0.5)
    assert [(m.stats_grad, m.momentum) for m in model] == [("none", 0.5)] * 2


REFUSED = [
    (Tower, {"preset": "literal"}, ValueError, "preset is 'literal': it must be 'paper' or None"),
    (Tower, {"stats_grad": "most"}, ValueError, "stats_grad is 'most'"),
    (Tower, {"gradient": "none"}, TypeError, "'gradient' is no option"),
    (Tower, {"decay": 0.9, "momentum": 0.1}, ValueError, "Both decay=0.9 and momentum=0.1"),
    (
        lambda: net(nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)),
        {"source": "running"}, ValueError, "=False does not keep",
    ),
    (
        lambda: net(nn.BatchNorm2d(4), changed(nn.BatchNorm2d(4), _calls=3, last_step=2)),
        {}, ValueError, r"2 \(BatchNorm2d\) .*: rename _calls, last_step",
    ),
    (
        lambda: net(nn.BatchNorm2d(4), nn.LazyBatchNorm2d()),
        {}, TypeError, r"2 \(LazyBatchNorm2d\) .*run one forward pass first",
    ),
    (
        lambda: net(nn.BatchNorm2d(4), torch.jit.script(net(nn.BatchNorm2d(4)))),
        {}, TypeError, "2.1 was compiled by torch.jit.*convert the model before script",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "options", "error", "message"), REFUSED)
def test_refusals_leave_the_model_as_it_was(make, options, error, message):
    model = make()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        convert_ubn(model, **options)
    assert snapshot(model) == before


@pytest.mark.parametrize("change", [convert_ubn, revert_ubn])
def test_nothing_changes_inside_a_step(change):
    model = convert_ubn(build("conv_net")).append(nn.BatchNorm2d(4))
    with collecting(model):
        before = snapshot(model)
        with pytest.raises(RuntimeError, match=f"call {change.__name__} outside of it"):
            change(model)
        assert snapshot(model) == before
        next(m for m in model if isinstance(m, UnsupervisedBatchNorm))(torch.randn(2, 4, 3, 3))
