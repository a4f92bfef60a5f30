"""The training engine: states on disk, going on, accumulating, refusing bad steps, precision."""

import itertools
import pickle
import types

import pytest
import torch
from torch import nn

import experiments.depth.engine
from experiments.depth.config import UBNForm
from experiments.depth.engine import DAMAGE, EngineConfig, load_state, load_weights, save_state
from experiments.depth.train import train_depth
from train_worker import (
    ALONE,
    RowsInMemory,
    depth_config,
    make_engine,
    small_net,
    squared_error,
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


# States on disk


def test_what_is_saved_trains_on(tmp_path):
    """Optimizers, models and random generators take it."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
    net(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    state = dict(net=net.state_dict(), optimizer=optimizer.state_dict(), draw=torch.get_rng_state())
    expected = torch.rand(3)
    found = load_state(save_state(state, tmp_path / "new" / "state.pt"))
    net.load_state_dict(found["net"])
    optimizer.load_state_dict(found["optimizer"])
    torch.set_rng_state(found["draw"])
    assert torch.equal(torch.rand(3), expected)
    assert str(optimizer.state_dict()) == str(state["optimizer"])
    twin = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_weights(twin, save_state(net.state_dict(), tmp_path / "net.pt"))
    assert_equal(twin.state_dict(), net.state_dict())


class Bomb:
    """What would run code of its own when it is unpickled."""

    went_off = False

    def __reduce__(self):
        return setattr, (Bomb, "went_off", True)


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DAMAGE):
        load_state(path)
    torch.save({"a": Bomb()}, path)
    with pytest.raises(DAMAGE):
        load_state(path)
    assert not Bomb.went_off
    pickle.loads(pickle.dumps(Bomb()))
    assert Bomb.went_off, "the bomb is one"


STATE = {"a": torch.arange(600.0), "b": [1, None, {"x": torch.zeros(0, 2), 3: torch.tensor(2)}]}


def test_a_damaged_file_is_refused_or_harmless(tmp_path):
    """Cut short anywhere, or with a flipped bit, which may lie where a zip archive says no data."""
    path = save_state(STATE, tmp_path / "state.pt")
    whole, noticed = path.read_bytes(), 0
    for length in [*range(0, len(whole), 101), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DAMAGE):
            load_state(path)
    places = range(0, len(whole), 11)
    for index in places:
        damaged = bytearray(whole)
        damaged[index] ^= 1 << index % 8
        path.write_bytes(damaged)
        try:
            assert str(load_state(path)) == str(STATE)
        except DAMAGE:
            noticed += 1
    assert noticed > len(places) / 3


@pytest.mark.parametrize("damage", ["missing", "other model"])
def test_wrong_weights_are_named(tmp_path, damage):
    path = tmp_path / "net.pt"
    if damage == "other model":
        save_state(nn.Linear(2, 4).state_dict(), path)
    with pytest.raises(ValueError, match=r"net\.pt does not hold the weights of this Linear"):
        load_weights(nn.Linear(2, 3), path)


# Going on


@pytest.mark.parametrize(("dropout", "accumulate"), [(0.5, 1), (0.5, 3)])
def test_stopped_after_any_step_it_ends_the_same(tmp_path, dropout, accumulate):
    def engine():
        return make_engine(small_net(dropout=dropout), accumulate=accumulate)

    whole = engine()
    whole.train(observe=stop_at(None))
    assert whole.steps == len(whole.curves["loss"]) == 12 // accumulate
    for stop in range(1, whole.steps + 1):
        path = tmp_path / f"{stop}.pt"
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


def test_checkpoints_are_written_when_the_time_has_come(tmp_path, monkeypatch):
    """A clock that goes on by a second at each look: at the start, and after each step."""
    written, clock = [], itertools.count()
    fake = types.SimpleNamespace(monotonic=lambda: next(clock), perf_counter=lambda: next(clock))
    monkeypatch.setattr(experiments.depth.engine, "time", fake)
    monkeypatch.setattr(
        experiments.depth.engine, "save_state", lambda s, _: written.append(s["step"])
    )
    for every, steps in ((1e9, [5]), (0, [1, 2, 3, 4, 5])):
        make_engine(steps=5).train(checkpoint=tmp_path / "c.pt", every_seconds=every)
        assert written == steps
        written.clear()
    make_engine(steps=40).train(checkpoint=tmp_path / "c.pt", every_seconds=20)
    assert 4 <= len(written) <= 10 and written[-1] == 40


# What is refused


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (dict(labeled_batch=4), r"order \w{16}, .* give the same frames, labels, batches"),
        (dict(net=nn.Sequential(nn.Flatten(), nn.Linear(108, 1))), "size mismatch"),
        (dict(net=small_net(norm=False)), "Unexpected key"),
    ],
    ids=["batch size", "weights", "fewer weights"],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, other, reason):
    path = tmp_path / "checkpoint.pt"
    make_engine().train(checkpoint=path)
    with pytest.raises(ValueError, match=f"checkpoint.pt is the checkpoint of .*{reason}") as told:
        make_engine(**other).train(checkpoint=path)
    assert str(told.value).endswith("and the run starts anew.") and "\n" not in str(told.value)


@pytest.mark.parametrize("state", [{}, [1, 2], {"random": {"cpu": [1]}}, None], ids=str)
def test_the_checkpoint_of_something_else_is_refused(tmp_path, state):
    path = save_state(state, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is the checkpoint of another run"):
        make_engine().train(checkpoint=path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is no whole checkpoint .*delete it"):
        make_engine().train(checkpoint=path)


def test_the_checkpoint_of_more_processes_is_refused(tmp_path):
    state = make_engine().state_dict()
    state["random"]["cpu"] *= 2
    path = save_state(state, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="of 2 processes, and there are 1: start as many"):
        make_engine().train(checkpoint=path)


def infinite_slope(at):
    """A finite loss whose gradient is not."""
    calls = itertools.count(1)

    def loss(model, data):
        error = squared_error(model, data)
        if next(calls) == at:
            error = error + (0 * model[-1].weight).sqrt().sum()
        return error

    return loss


def test_a_step_that_is_not_finite_changes_nothing(tmp_path):
    """The fourth batch, the second half of the second step."""
    engine = make_engine(loss=infinite_slope(4), accumulate=2)
    path, before = tmp_path / "checkpoint.pt", []
    with pytest.raises(FloatingPointError, match="at step 2: lower the learning rate"):
        engine.train(
            observe=lambda _: before.append([p.clone() for p in engine.model.parameters()]) or {},
            checkpoint=path,
            every_seconds=0,
        )
    assert len(before) == len(engine.curves["loss"]) == engine.step == 1
    for found, expected in zip(engine.model.parameters(), before[-1], strict=True):
        assert torch.equal(found, expected)
    assert load_state(path)["step"] == 1


# What is computed


def in_float64(accumulate, labeled_batch, steps):
    net = small_net(norm=False).double()
    rows = RowsInMemory(dtype=torch.float64)
    options = dict(labeled_batch=labeled_batch, steps=steps, accumulate=accumulate)
    return make_engine(net, rows=rows, **options)


def test_micro_batches_add_up_to_the_whole_batch():
    parts, whole = in_float64(5, 4, 7 * 5), in_float64(1, 20, 7)
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
    engine.train(observe=lambda step: {"even": float(step)} if step % 2 == 0 else {})
    torch.testing.assert_close(engine.curves["loss"], losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(weights(engine), net.state_dict(), rtol=1e-9, atol=1e-12)
    assert engine.curves["even"] == [2.0, 4.0, 6.0]


# How it is computed


@pytest.fixture(scope="module")
def walls(tmp_path_factory):
    return write_walls(tmp_path_factory.mktemp("walls"))


def losses_of(walls, **engine):
    config = depth_config(
        walls, norm=UBNForm(), steps=12, evaluations=0, engine=EngineConfig(**engine), loss="log_l1"
    )
    net, curves = train_depth(config, walls, ranks=ALONE)
    assert all(value.dtype == torch.float32 for value in net.parameters())
    return torch.tensor(curves["loss"])


@pytest.mark.parametrize(
    ("how", "close"),
    [
        (dict(precision="fp16"), 0.1),
        (dict(precision="bf16", channels_last=True, passes="two"), 0.1),
    ],
    ids=str,
)
def test_other_ways_train_to_about_the_same(walls, how, close):
    plain, other = losses_of(walls), losses_of(walls, **how)
    assert plain[-1] < 0.8 * plain[0], "it trains"
    torch.testing.assert_close(other, plain, rtol=close, atol=0)
    assert not torch.equal(other, plain), "it was another way"


def test_precision_and_layout_reach_the_layers():
    net, dtypes = small_net(), []
    net[0].register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
    for precision in ("fp32", "bf16", "fp16"):
        make_engine(net, precision=precision, steps=1).train()
    assert dtypes == [torch.float32, torch.bfloat16, torch.float16]
    net = EngineConfig(channels_last=True).prepare(small_net())
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_compiled_net_trains_to_the_same(monkeypatch, tmp_path):
    """Traced and run without a C++ compiler; and checkpoints are those of the plain net."""
    torch._dynamo.reset()
    compile_plainly = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda net: compile_plainly(net, backend="eager"))
    plain, other = make_engine(), make_engine(compile=True)
    assert other.model._compiled_call_impl is not None
    plain.train(checkpoint=tmp_path / "plain.pt")
    other.train()
    torch.testing.assert_close(other.curves["loss"], plain.curves["loss"], rtol=1e-4, atol=1e-6)
    make_engine(compile=True, steps=14).train(checkpoint=tmp_path / "plain.pt")
    torch._dynamo.reset()


# What the machine multiplies fastest


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks the processor, and there is a GPU")
@pytest.mark.parametrize(
    ("avx512", "amx", "precision"),
    [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")],
)
def test_bfloat16_is_for_processors_that_have_it(monkeypatch, avx512, amx, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert EngineConfig.fastest() == EngineConfig(precision=precision, channels_last=True)
