"""Checkpoints: what comes back, what is refused, and that nothing is ever half there."""

import errno
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from experiments.depth.checkpoints import TREE, load_checkpoint, save_checkpoint

DTYPES = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64]


@st.composite
def tensors(draw):
    """Of any of the types, down to no dimension and no element; some are no contiguous memory."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = torch.randint(0, 255, shape, generator=generator).to(draw(st.sampled_from(DTYPES)))
    if values.is_floating_point() and values.numel():
        values.view(-1)[0] = draw(st.sampled_from([torch.nan, torch.inf, -0.0, 1 / 3]))
    return values.mT if len(shape) > 1 and draw(st.booleans()) else values


NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
KEYS = st.one_of(st.text(max_size=5), st.integers())
STATES = st.recursive(
    st.one_of(NUMBERS, tensors()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


def same(found, given):
    """Whether a state came back: in type, order and every bit; tuples as lists."""
    if isinstance(given, torch.Tensor):
        return (
            found.dtype == given.dtype
            and found.shape == given.shape
            and found.numpy().tobytes() == given.numpy().tobytes()
        )
    if isinstance(given, list | tuple):
        return type(found) is list and len(found) == len(given) and all(map(same, found, given))
    if isinstance(given, dict):
        return list(map(repr, found)) == list(map(repr, given)) and all(
            same(found[key], given[key]) for key in given
        )
    if isinstance(given, float) and math.isnan(given):
        return math.isnan(found)
    return type(found) is type(given) and found == given


@settings(deadline=None, max_examples=120)
@given(STATES)
def test_what_is_saved_comes_back(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "state.npz"
    assert save_checkpoint(state, path) == path
    assert same(load_checkpoint(path), state)


def test_the_comparison_made_here_tells_types_apart():
    """An optimizer's state has numbers for keys; the text "1" is another key."""
    assert not same({"1": 0}, {1: 0}) and not same([1], [1.0]) and not same([True], [1])
    assert not same(torch.zeros(2), torch.zeros(2, dtype=torch.int64))


def test_what_comes_back_trains_on(tmp_path):
    """Optimizers, models and random generators take it."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
    net(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    state = dict(net=net.state_dict(), optimizer=optimizer.state_dict(), draw=torch.get_rng_state())
    expected = torch.rand(3)
    found = load_checkpoint(save_checkpoint(state, tmp_path / "state.npz"))
    net.load_state_dict(found["net"])
    optimizer.load_state_dict(found["optimizer"])
    torch.set_rng_state(found["draw"])
    assert torch.equal(torch.rand(3), expected)
    assert same(optimizer.state_dict()["state"], state["optimizer"]["state"])


def test_tensors_with_a_gradient_are_saved_as_they_are_then(tmp_path):
    weight = nn.Parameter(torch.ones(2))
    path = save_checkpoint([weight], tmp_path / "state.npz")
    with torch.no_grad():
        weight.zero_()
    (found,) = load_checkpoint(path)
    assert found.tolist() == [1, 1] and not found.requires_grad
    found.add_(1)  # the caller's own


# What is refused


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [slice(3)]}, "A checkpoint holds tensors, numbers and texts, and found slice"),
        ({"a": np.zeros(2)}, "found ndarray: turn it into one of them first"),
        ([{1, 2}], "found set"),
        ({"a": {(0, 1): 2}}, r"keys are texts and whole numbers, and one is \(0, 1\)"),
        ({None: 2}, "one is None"),
        ({0.5: 2}, "one is 0.5"),
    ],
    ids=str,
)
def test_other_things_are_refused_and_nothing_is_written(tmp_path, state, message):
    path = save_checkpoint([1], tmp_path / "state.npz")
    with pytest.raises(TypeError, match=message):
        save_checkpoint(state, path)
    assert load_checkpoint(path) == [1]
    assert list(tmp_path.iterdir()) == [path]


def refused(path):
    with pytest.raises(ValueError, match=r"is no whole checkpoint .*: delete it") as told:
        load_checkpoint(path)
    assert path.name in str(told.value)
    return True


class Bomb:
    """What would run code of its own when it is unpickled."""

    went_off = False

    def __reduce__(self):
        return setattr, (Bomb, "went_off", True)


def test_nothing_is_unpickled(tmp_path):
    tree = np.frombuffer(b'[{"tensor": "tensor0"}]', np.uint8)
    path = tmp_path / "state.npz"
    objects = np.array([Bomb()], dtype=object)
    for arrays in ({TREE: tree, "tensor0": objects}, {TREE: objects}):
        np.savez(path, **arrays)
        refused(path)
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path)
    torch.save({"a": Bomb()}, path)
    refused(path)
    assert not Bomb.went_off
    pickle.loads(pickle.dumps(Bomb()))
    assert Bomb.went_off, "the bomb is one"


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "state.npz"
    refused(path)  # missing
    for content in (b"", b"text", b"PK\x03\x04"):
        path.write_bytes(content)
        refused(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    refused(path)
    np.savez(path, weights=np.zeros(3))  # as `save_weights` writes
    refused(path)
    for text in (b"{", b"\xff", b'{"dict": 5}', b'{"tensor": "tensor9"}', b'{"dict": [[[1], 2]]}'):
        np.savez(path, **{TREE: np.frombuffer(text, np.uint8)})
        refused(path)
    path.unlink()
    path.mkdir()
    refused(path)


STATE = {"a": torch.arange(6.0), "b": [1, None, {"x": torch.zeros(0, 2), 3: torch.tensor(2)}]}


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = save_checkpoint(STATE, tmp_path / "state.npz")
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 13), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path)


def test_a_flipped_bit_is_refused_or_harmless(tmp_path):
    path = save_checkpoint(STATE, tmp_path / "state.npz")
    whole, noticed = path.read_bytes(), 0
    for index in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << index % 8
        path.write_bytes(damaged)
        try:
            assert same(load_checkpoint(path), STATE)  # in what a zip archive says beside the data
        except ValueError as error:
            assert "is no whole checkpoint" in str(error)
            noticed += 1
    assert noticed > len(whole) / 3 / 2


# Whole or not there


@pytest.mark.parametrize("fault", ["savez", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_one_before(tmp_path, monkeypatch, fault):
    path = save_checkpoint(STATE, tmp_path / "state.npz")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        owner = {"savez": "numpy.savez", "fsync": "os.fsync", "replace": "pathlib.Path.replace"}
        patch.setattr(owner[fault], full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint([2], path)
    assert same(load_checkpoint(path), STATE)
    save_checkpoint([2], path)  # what the failed one left does not disturb
    assert load_checkpoint(path) == [2]


def test_folders_are_made_and_leftovers_do_not_disturb(tmp_path):
    folder = tmp_path / "new" / "folder"
    folder.mkdir(parents=True)
    for left in ("state.npz.1.partial", "state.npz.99999999.partial"):
        (folder / left).write_bytes(b"half")
    path = save_checkpoint([1], folder / "state.npz")
    assert load_checkpoint(path) == [1]
    assert save_checkpoint([1], tmp_path / "other" / "state.npz").exists()
