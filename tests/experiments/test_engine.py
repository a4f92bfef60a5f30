"""The training engine: killed and gone on with, accumulating, refusing bad steps, precision."""

import itertools
import types

import pytest
import torch
from torch import nn

import experiments.depth.engine
import train_worker
from experiments.common.training import BNConfig
from experiments.depth.checkpoints import load_checkpoint, save_checkpoint
from experiments.depth.engine import EngineConfig
from experiments.depth.forms import UBNForm
from experiments.depth.train import train_depth
from train_worker import (
    ALONE,
    RowsInMemory,
    depth_config,
    dropout_engine,
    make_engine,
    small_net,
    squared_error,
    until_done,
    write_walls,
)


class StoppedError(Exception):
    """What stops a run in a test."""


def stop_at(step):
    def observe(now):
        if now == step:
            raise StoppedError
        return {"seen": now}

    return observe


def weights(engine):
    return {name: value.clone() for name, value in engine.model.state_dict().items()}


def assert_equal(found, expected):
    """Equal in every bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


# Going on


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(tmp_path):
    whole = dropout_engine()
    whole.train()
    starts = until_done(train_worker.train_dropout, tmp_path, folder=tmp_path, kills=5, seed=1)
    assert sorted(set(starts)) == starts and len(starts) == 6, "each start went further"
    assert starts[1] == 4, "the half-written fifth checkpoint does not count"
    assert list(tmp_path.glob("*.partial")), "what was half written lay there"
    end = load_checkpoint(tmp_path / "end.npz")
    assert end["curves"] == whole.curves
    assert_equal(end["state"], weights(whole))


@pytest.mark.parametrize("options", [dict(), dict(accumulate=2), dict(accumulate=3)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_stopped_after_any_step_it_ends_the_same(tmp_path, dropout, options):
    def engine():
        return make_engine(small_net(dropout=dropout), **options)

    whole = engine()
    whole.train(observe=stop_at(None))
    assert whole.steps == len(whole.curves["loss"]) == 12 // options.get("accumulate", 1)
    for stop in range(1, whole.steps + 1):
        path = tmp_path / f"{stop}.npz"
        with pytest.raises(StoppedError):
            engine().train(observe=stop_at(stop), checkpoint=path, every_seconds=0)
        assert path.exists() == (stop > 1), "observed before it was written"
        rest = engine()
        rest.train(observe=stop_at(None), checkpoint=path)
        assert rest.step == whole.steps and rest.curves == whole.curves
        assert_equal(weights(rest), weights(whole))
        done = engine()
        done.train(observe=stop_at(1), checkpoint=path)  # nothing is left, so nothing stops
        assert_equal(weights(done), weights(whole))


def test_the_seed_is_that_of_dropout_and_torch_keeps_its_own():
    state = torch.get_rng_state()
    losses = []
    for seed in (0, 0, 1):
        engine = make_engine(small_net(dropout=0.5), seed=seed)
        engine.train()
        losses.append(engine.curves["loss"])
        torch.rand(3)  # what others draw does not matter
    assert losses[0] == losses[1] != losses[2]
    torch.set_rng_state(state)
    with pytest.raises(StoppedError):
        make_engine(small_net(dropout=0.5)).train(observe=stop_at(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_reading_ahead_in_other_processes_changes_no_draw():
    one, two = dropout_engine(), dropout_engine()
    two.loader._options["num_workers"] = 1
    for engine in (one, two):
        engine.loader.steps = 8
        engine.train()
    assert one.curves == two.curves and one.step == 4


def test_checkpoints_are_written_when_the_time_has_come(tmp_path, monkeypatch):
    """A clock that goes on by a second at each look: at the start, and after each step."""
    written, clock = [], itertools.count()
    fake = types.SimpleNamespace(monotonic=lambda: next(clock), perf_counter=lambda: next(clock))
    monkeypatch.setattr(experiments.depth.engine, "time", fake)
    monkeypatch.setattr(
        experiments.depth.engine, "save_checkpoint", lambda s, _: written.append(s["step"])
    )
    make_engine(steps=5).train(checkpoint=tmp_path / "c.npz", every_seconds=1e9)
    assert written == [5]
    written.clear()
    make_engine(steps=5).train(checkpoint=tmp_path / "c.npz", every_seconds=0)
    assert written == [1, 2, 3, 4, 5]
    written.clear()
    make_engine(steps=40).train(checkpoint=tmp_path / "c.npz", every_seconds=20)
    assert 4 <= len(written) <= 10 and written[-1] == 40
    written.clear()
    make_engine(steps=5).train()
    assert written == []


# What is refused


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.npz"
    make_engine().train(checkpoint=path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"checkpoint\.npz is no whole checkpoint .*delete it"):
        make_engine().train(checkpoint=path)


class OtherNet(nn.Sequential):
    """Weights of other names."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(108, 1))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (dict(labeled_batch=4), r"order \w{16}, .* give the same frames, labels, batch sizes"),
        (dict(rows=RowsInMemory().images[:30]), None),
        (dict(net=OtherNet()), "size mismatch"),
        (dict(net=small_net(norm=False)), "Unexpected key"),
    ],
    ids=["batch size", "frames", "weights", "fewer weights"],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, other, reason):
    path = tmp_path / "checkpoint.npz"
    make_engine().train(checkpoint=path)
    if reason is None:
        rows, reason = RowsInMemory(), "order"
        rows.fingerprint = "other rows"
        other = dict(rows=rows)
    engine = make_engine(**other)
    with pytest.raises(ValueError, match=f"checkpoint.npz is the checkpoint of .*{reason}") as told:
        engine.train(checkpoint=path)
    assert str(told.value).endswith("and the run starts anew.") and "\n" not in str(told.value)


@pytest.mark.parametrize("state", [{}, [1, 2], {"random": {"cpu": [1]}}, None], ids=str)
def test_the_checkpoint_of_something_else_is_refused(tmp_path, state):
    path = save_checkpoint(state, tmp_path / "checkpoint.npz")
    with pytest.raises(ValueError, match=r"checkpoint\.npz is the checkpoint of another run"):
        make_engine().train(checkpoint=path)


def test_the_checkpoint_of_more_processes_is_refused(tmp_path):
    engine = make_engine()
    state = engine.state_dict()
    state["random"]["cpu"] *= 2
    path = save_checkpoint(state, tmp_path / "checkpoint.npz")
    with pytest.raises(ValueError, match="of 2 processes, and there are 1: start as many"):
        make_engine().train(checkpoint=path)
    assert engine.loader.step == 0


def infinite_slope(at):
    """A finite loss whose gradient is not."""
    calls = itertools.count(1)

    def loss(model, data):
        error = squared_error(model, data)
        if next(calls) == at:
            error = error + (0 * model[-1].weight).sqrt().sum()
        return error

    return loss


@pytest.mark.parametrize(
    ("case", "accumulate", "step"),
    [("loss", 1, 4), ("gradient", 1, 4), ("loss", 2, 2), ("gradient", 2, 2)],
)
def test_a_step_that_is_not_finite_changes_nothing(tmp_path, case, accumulate, step):
    """The fourth batch, which may be the second half of the second step."""
    steps = list(make_engine(accumulate=accumulate).loader)
    bad = RowsInMemory().images.eq(steps[3].labeled.images[0]).all((1, 2, 3)).nonzero().item()
    engine = make_engine(
        rows=RowsInMemory(bad=bad if case == "loss" else None),
        loss=infinite_slope(4) if case == "gradient" else squared_error,
        accumulate=accumulate,
        labeled_batch=8,
    )
    path, before = tmp_path / "checkpoint.npz", []
    with pytest.raises(FloatingPointError, match=f"at step {step}: lower the learning rate"):
        engine.train(
            observe=lambda _: before.append([p.clone() for p in engine.model.parameters()]) or {},
            checkpoint=path,
            every_seconds=0,
        )
    assert len(before) == len(engine.curves["loss"]) == engine.step == step - 1
    for found, expected in zip(engine.model.parameters(), before[-1], strict=True):
        assert torch.equal(found, expected)
    assert load_checkpoint(path)["step"] == step - 1


# What is computed


def in_float64(accumulate, labeled_batch, steps):
    net = small_net(norm=False).double()
    rows = RowsInMemory(dtype=torch.float64)
    options = dict(labeled_batch=labeled_batch, steps=steps, accumulate=accumulate)
    return make_engine(net, rows=rows, **options)


@pytest.mark.parametrize("accumulate", [2, 5])
def test_micro_batches_add_up_to_the_whole_batch(accumulate):
    parts = in_float64(accumulate, 20 // accumulate, 7 * accumulate)
    whole = in_float64(1, 20, 7)
    for engine in (parts, whole):
        engine.train()
    assert parts.steps == whole.steps == 7
    torch.testing.assert_close(parts.curves["loss"], whole.curves["loss"], rtol=1e-12, atol=0)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-9, atol=1e-12)


def test_steps_are_the_optimizers():
    """Against a loop without an engine."""
    engine, net = in_float64(1, 8, 6), small_net(norm=False).double()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1, fused=False)
    losses = []
    for data in in_float64(1, 8, 6).loader:
        loss = squared_error(net, data)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    engine.train()
    torch.testing.assert_close(engine.curves["loss"], losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(weights(engine), net.state_dict(), rtol=1e-9, atol=1e-12)


def test_curves_take_what_was_observed():
    engine = make_engine(steps=6)
    engine.train(observe=lambda step: {"even": float(step)} if step % 2 == 0 else {})
    assert engine.curves["even"] == [2.0, 4.0, 6.0]
    assert len(engine.curves["loss"]) == 6


def test_the_progress_bar_tells_loss_and_speed(capsys):
    make_engine().train()
    assert capsys.readouterr().err == ""
    make_engine().train(progress="a run")
    shown = capsys.readouterr().err
    assert "a run" in shown and "loss " in shown and "images/s" in shown


# How it is computed


@pytest.fixture(scope="module")
def walls(tmp_path_factory):
    return write_walls(tmp_path_factory.mktemp("walls"))


def losses_of(walls, norm, **engine):
    config = depth_config(
        walls, norm=norm, steps=12, evaluations=0, engine=EngineConfig(**engine), loss="log_l1"
    )
    net, curves = train_depth(config, walls, ranks=ALONE)
    assert all(value.dtype == torch.float32 for value in net.parameters())
    return torch.tensor(curves["loss"])


@pytest.fixture(scope="module", params=[BNConfig(), UBNForm()], ids=["BN", "UBN"])
def plain_run(request, walls):
    """A normalization, and its losses in float32."""
    return request.param, losses_of(walls, request.param)


@pytest.mark.parametrize(
    ("how", "close"),
    [
        (dict(channels_last=True), 0.01),
        (dict(passes="two"), 0.01),
        (dict(precision="bf16"), 0.1),
        (dict(precision="fp16"), 0.1),
        (dict(precision="bf16", channels_last=True, passes="two"), 0.1),
    ],
    ids=str,
)
def test_other_ways_train_to_about_the_same(walls, plain_run, how, close):
    norm, plain = plain_run
    other = losses_of(walls, norm, **how)
    assert plain[-1] < 0.8 * plain[0], "it trains"
    torch.testing.assert_close(other, plain, rtol=close, atol=0)
    if how != dict(passes="two"):
        assert not torch.equal(other, plain), "it was another way"


def test_reduced_precision_reaches_the_layers():
    net, dtypes = small_net(), []
    net[0].register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
    for precision in ("fp32", "bf16", "fp16"):
        make_engine(net, precision=precision, steps=1).train()
    assert dtypes == [torch.float32, torch.bfloat16, torch.float16]
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_channels_last_is_the_layout_of_the_weights():
    net = EngineConfig(channels_last=True).prepare(small_net())
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def no_compiled_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_compiled_net_trains_to_the_same(no_compiled_graphs, monkeypatch, tmp_path):
    """Traced and run without a C++ compiler; and checkpoints are those of the plain net."""
    compile_plainly = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda net: compile_plainly(net, backend="eager"))
    plain, other = make_engine(), make_engine(compile=True)
    assert other.model._compiled_call_impl is not None
    plain.train(checkpoint=tmp_path / "plain.npz")
    other.train()
    torch.testing.assert_close(other.curves["loss"], plain.curves["loss"], rtol=1e-4, atol=1e-6)
    make_engine(compile=True, steps=14).train(checkpoint=tmp_path / "plain.npz")


@pytest.mark.slow
def test_a_compiled_dispnet_trains_to_the_same(no_compiled_graphs, monkeypatch, walls, plain_run):
    compile_plainly = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda net: compile_plainly(net, backend="eager"))
    norm, plain = plain_run
    other = losses_of(walls, norm, compile=True)
    torch.testing.assert_close(other, plain, rtol=0.01, atol=0)
