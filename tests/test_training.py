"""The training loop, its seeds, and the depth experiment on small data."""

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_kitti import HEIGHT, WIDTH, write_calibration, write_frame
from torch import nn

from ubnlib.depth_experiment import (
    DepthConfig,
    DepthData,
    EveryLabels,
    RandomLabels,
    run_depth,
    train_depth,
)
from ubnlib.kitti import KittiRaw, prepare
from ubnlib.training import (
    Batch,
    BNConfig,
    UBNConfig,
    evaluating,
    fit,
    initialized_by,
    random_batches,
)


def test_random_batches_visit_everything_equally_often():
    batches = random_batches(4, 10, torch.Generator().manual_seed(0))
    seen = torch.cat(list(itertools.islice(batches, 25)))
    assert seen.bincount().tolist() == [10] * 10
    assert all(sorted(seen[i : i + 10].tolist()) == list(range(10)) for i in range(0, 100, 10))


def test_random_batches_larger_than_the_data():
    batch = next(random_batches(7, 3, torch.Generator().manual_seed(0)))
    assert sorted(batch.bincount().tolist()) == [2, 2, 3]


def test_fit_makes_the_steps_of_the_optimizer():
    """One weight, quadratic loss, plain gradient descent: w <- w - lr * 2 (w - 3)."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    one = torch.ones(1, 1)
    batches = [Batch(one, 3 * one, None)] * 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    seen = []
    losses = fit(model, optimizer, nn.functional.mse_loss, batches, after_step=seen.append)
    assert losses == pytest.approx([9 * 0.25**k for k in range(4)])
    assert model.weight.item() == pytest.approx(3 - 3 * 0.5**4)
    assert seen == [1, 2, 3, 4]


def test_fit_stops_at_a_loss_that_is_not_finite():
    model = nn.Linear(1, 1)
    rows = torch.ones(1, 1)
    batches = [Batch(rows, rows, None), Batch(rows * torch.inf, rows, None)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = None

    def keep(_):
        nonlocal before
        before = model.weight.clone()

    with pytest.raises(FloatingPointError, match="at step 2: lower the learning rate"):
        fit(model, optimizer, nn.functional.mse_loss, batches, after_step=keep)
    assert torch.equal(model.weight, before), "the bad step must not reach the weights"


def test_seeds_leave_the_global_state_alone():
    state = torch.get_rng_state()
    with initialized_by(3):
        first = nn.Linear(4, 4)
    with initialized_by(3):
        second = nn.Linear(4, 4)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(state, torch.get_rng_state())


def test_evaluating_restores_the_mode():
    model = nn.Dropout()
    with pytest.raises(KeyError), evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        raise KeyError
    assert model.training
    assert torch.is_grad_enabled()


def test_norm_configurations_change_the_model():
    model = UBNConfig(stats_grad="none", momentum=0.3).apply(nn.BatchNorm1d(3))
    assert (model.stats_grad, model.momentum) == ("none", 0.3)
    assert BNConfig(momentum=0.2).apply(nn.BatchNorm1d(3)).momentum == 0.2
    with pytest.raises(ValidationError, match="stats_grad"):
        DepthConfig(data="0", norm={"kind": "bn", "stats_grad": "none"})


# --- depth --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def depth_data(tmp_path_factory):
    """Images whose brightness tells how far the wall that fills them is: drive 2 is for testing."""
    root, rng = tmp_path_factory.mktemp("kitti"), np.random.default_rng(0)
    for drive, count in ((1, 24), (2, 8)):
        for frame in range(count):
            meters = rng.uniform(4, 40)
            gray = 255 * (1 - meters / 50) + rng.normal(0, 3, (HEIGHT, WIDTH, 3))
            pixels = gray.clip(0, 255).astype(np.uint8)
            write_frame(root, drive, frame, cameras=(2,), meters=meters, pixels=pixels)
    write_calibration(root)
    packed = prepare(KittiRaw(root, size=(16, 32)), root / "packed", progress=False)
    return DepthData(packed, packed.keys[:24], packed.keys[24:])


def depth_config(data, **options):
    settings = dict(
        data=data.fingerprint, labels=EveryLabels(k=4), width=0.1, labeled_batch=4,
        unlabeled_batch=4, learning_rate=3e-3, steps=4, evaluations=2,
    )  # fmt: skip
    return DepthConfig(**settings | options)


def test_labels_are_every_kth_frame(depth_data):
    labeled, unlabeled = depth_data.labeled(EveryLabels(k=4))
    assert labeled.tolist() == [0, 4, 8, 12, 16, 20]
    assert sorted([*labeled, *unlabeled]) == list(range(24))
    assert depth_data.labeled(EveryLabels(k=8, phase=2))[0].tolist() == [2, 10, 18]
    some, fewer = (set(depth_data.labeled(RandomLabels(k=k, seed=1))[0]) for k in (2, 8))
    assert len(some) == 12 and len(fewer) == 3 and fewer < some


def test_labels_are_in_the_record(depth_data):
    record = run_depth(depth_config(depth_data, steps=1, evaluations=0), depth_data)
    assert record.seeds == [0]
    assert record.frames == {"labeled": ["2000_01_01_drive_0001 2 0-20/4"]}


def test_a_frame_is_on_one_side_only(depth_data):
    keys = depth_data.frames.keys
    for train, test in ((keys, keys[-1:]), (keys, []), ([], keys)):
        with pytest.raises(ValueError, match="some on each and none on both"):
            DepthData(depth_data.frames, train, test)


def test_depth_run_refuses_other_data(depth_data):
    config = depth_config(depth_data)
    swapped = DepthData(depth_data.frames, depth_data.test_keys, depth_data.train_keys)
    with pytest.raises(ValueError, match="the frames given are"):
        train_depth(config, swapped)


@pytest.mark.parametrize("norm", [BNConfig(), UBNConfig(), UBNConfig(stats_grad="none")])
def test_depth_run_is_a_function_of_its_configuration(depth_data, norm):
    config = depth_config(depth_data, norm=norm)
    one, two = run_depth(config, depth_data), run_depth(config, depth_data)
    assert one.metrics == two.metrics
    assert one.metrics["labeled_frames"] == [6]
    assert one.curves["step"] == [[2, 4]]
    assert len(one.curves["test"][0]) == 2


def test_all_labels_make_ubn_batch_normalization(depth_data):
    bn, ubn = (
        run_depth(depth_config(depth_data, norm=norm, labels=EveryLabels(k=1)), depth_data)
        for norm in (BNConfig(), UBNConfig())
    )
    assert bn.metrics == ubn.metrics


def test_reading_ahead_changes_nothing(depth_data):
    config = depth_config(depth_data, norm=UBNConfig())
    one, two = (run_depth(config, depth_data, workers=workers) for workers in (0, 2))
    assert one.metrics == two.metrics and one.curves == two.curves


@pytest.mark.slow
@pytest.mark.parametrize("norm", [BNConfig(), UBNConfig()])
def test_depth_is_learned_where_it_can_be(depth_data, norm):
    config = depth_config(depth_data, norm=norm, labels=EveryLabels(k=1), steps=150, width=0.25)
    (start,) = run_depth(config.model_copy(update={"steps": 1}), depth_data).metrics["delta1"]
    (end,) = run_depth(config, depth_data).metrics["delta1"]
    assert end > max(0.5, start + 0.2)
