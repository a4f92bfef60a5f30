"""Weights are kept as plain arrays and refused when they are not those of the model."""

import numpy as np
import pytest
import torch
from torch import nn

from experiments.depth.weights import load_weights, save_weights


def net(width=3):
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def test_weights_come_back_exactly(tmp_path):
    model = net()
    model(torch.randn(8, 2))
    path = save_weights(model, tmp_path / "deep" / "net.npz")
    twin = load_weights(net(), path)
    for name, value in model.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value)
    assert [p.name for p in path.parent.iterdir()] == ["net.npz"]


@pytest.mark.parametrize("damage", ["missing", "cut", "other model", "pickle"])
def test_wrong_files_are_named(tmp_path, damage):
    path = tmp_path / "net.npz"
    if damage == "other model":
        save_weights(net(4), path)
    elif damage == "cut":
        save_weights(net(), path)
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "pickle":
        np.savez(path, evil=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"net\.npz does not hold the weights of this Sequential"):
        load_weights(net(), path)
