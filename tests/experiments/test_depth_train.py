"""Depth runs: their data and configuration, killed and gone on with, and of two processes."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

import train_worker
from experiments.common.training import BNConfig
from experiments.depth.config import DepthConfig, UBNForm
from experiments.depth.data import DepthData, DrawnLabels, EveryLabels, PlacesLabels, split_data
from experiments.depth.engine import EngineConfig, Ranks, load_state
from experiments.depth.train import (
    averages_then_own,
    checkpoint_path,
    main,
    make_loader,
    make_net,
    mirrored,
    obtain_depth,
    run_depth,
    train_depth,
)
from train_worker import ALONE, KILLED, TOGETHER, depth_config, until_done


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kitti")
    train_worker.write_walls(folder)
    return folder


@pytest.fixture(scope="module")
def data(root):
    return train_worker.open_walls(root)


# Data and configuration


def test_labels_are_every_kth_frame(data):
    labeled, unlabeled = data.labeled(EveryLabels(k=4))
    assert labeled.tolist() == [0, 4, 8, 12, 16, 20]
    assert sorted([*labeled, *unlabeled]) == list(range(24))
    assert data.labeled(EveryLabels(k=8, phase=2))[0].tolist() == [2, 10, 18]


def test_a_frame_is_on_one_side_only(data):
    keys = data.frames.keys
    for train, test in ((keys, keys[-1:]), (keys, []), ([], keys)):
        with pytest.raises(ValueError, match="some on each and none on both"):
            DepthData(data.frames, train, test)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(steps=None), "steps is None and epochs None: give one of them"),
        (dict(engine=dict(accumulate=3)), "cannot be divided into 3 equal micro-batches"),
        (dict(unlabeled_batch=5, engine=dict(accumulate=2)), "divided into 2 equal"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(data, change, message):
    with pytest.raises(ValidationError, match=message):
        depth_config(data, **change)


def test_the_papers_numbers_give_its_number_of_steps():
    """42,304 images, 160 epochs, batches of 128: 330.5 steps an epoch."""
    paper = dict(data="kitti", labels=EveryLabels(k=2), labeled_batch=32, unlabeled_batch=96)
    assert DepthConfig(epochs=160, **paper).total_steps(42_304) == 52_880
    assert DepthConfig(epochs=0.5, norm=UBNForm(), **paper).total_steps(1000) == 4
    assert DepthConfig(steps=7, **paper).total_steps(42_304) == 7


def test_epochs_are_made_in_optimizer_steps(data):
    """24 images, 8 a step: 3 steps an epoch, whatever the micro-batches."""
    engine = EngineConfig(accumulate=2)
    config = depth_config(data, steps=None, epochs=1.5, engine=engine, evaluations=0)
    _, curves = train_depth(config, data)
    assert len(curves["loss"]) == 5  # 4.5, rounded up
    assert set(curves) == {"loss"}


@pytest.mark.parametrize(
    ("steps", "evaluations", "points"), [(5, 2, [3, 5]), (2, 4, [1, 2]), (2, 1, [2])]
)
def test_curves_have_as_many_points_as_asked(data, steps, evaluations, points):
    _, curves = train_depth(depth_config(data, steps=steps, evaluations=evaluations), data)
    assert curves["step"] == points
    for name, values in curves.items():
        assert len(values) == (steps if name == "loss" else len(points)), name


# One process


def test_depth_run_is_a_function_of_its_configuration(data):
    """And not of how batches are read."""
    config = depth_config(data, norm=UBNForm())
    one, two = (run_depth(config, data, workers=workers) for workers in (0, 2))
    assert one.metrics == two.metrics and one.curves == two.curves
    assert one.seeds == [0] and one.metrics["labeled_frames"] == [6]
    assert one.frames == {"labeled": ["2000_01_01_drive_0001 2 0-20/4"]}
    assert one.curves["step"] == [[2, 4]]
    assert len(one.curves["test"][0]) == 2


def test_all_labels_make_ubn_batch_normalization(data):
    bn, ubn = (
        run_depth(depth_config(data, norm=norm, labels=EveryLabels(k=1)), data)
        for norm in (BNConfig(), UBNForm())
    )
    assert bn.metrics == ubn.metrics


def test_batch_normalization_sees_no_unlabeled_image(data, monkeypatch):
    asked, batch = [], type(data.frames).batch

    def watched(self, indices, **options):
        asked.extend(int(index) for index in indices)
        return batch(self, indices, **options)

    monkeypatch.setattr(type(data.frames), "batch", watched)
    train_depth(depth_config(data, evaluations=0), data)
    assert set(asked) == set(data.labeled(EveryLabels(k=4))[0])
    train_depth(depth_config(data, evaluations=0, norm=UBNForm()), data)
    assert set(asked) > set(data.labeled(EveryLabels(k=4))[0])


FORMS = {
    "corrected": UBNForm(),
    "all": UBNForm(stats_grad="all"),
    "repaired": UBNForm(stats_grad="none", repair="both"),
}


@pytest.mark.parametrize("name", FORMS)
def test_both_ways_of_a_step_train_alike(data, name):
    options = dict(norm=FORMS[name], loss="log_l1", evaluations=0)
    curves = {}
    for passes in ("two", "side by side"):
        with train_worker.in_float64():
            config = depth_config(data, engine=EngineConfig(passes=passes), **options)
            _, curves[passes] = train_depth(config, data, ranks=ALONE)
    two, both = curves.values()
    torch.testing.assert_close(both["loss"], two["loss"], rtol=1e-6, atol=0)


# Killed, and gone on with


def test_killed_at_random_moments_it_ends_the_same(root, data, tmp_path):
    config = depth_config(data, **KILLED)
    whole = run_depth(config, data, weights=tmp_path / "whole.pt")
    out = tmp_path / "killed"
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "left.pt.1.partial").write_bytes(b"of another run")
    starts = until_done(
        train_worker.obtain_killed, root, out, folder=out / "checkpoints", kills=3, seed=2
    )
    assert starts[1] == 4 and sorted(set(starts)) == starts, "each start went further"
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["left.pt.1.partial"]
    # What a run leaves that is killed after its record was written.
    left = checkpoint_path(config, out / "checkpoints")
    for path in (left, left.with_name(f"{left.name}.7.partial")):
        path.write_bytes(b"half")
    found = obtain_depth(config, data, out, checkpoints=left.parent)
    assert [path.name for path in left.parent.iterdir()] == ["left.pt.1.partial"]
    same = {"config", "metrics", "curves", "frames", "seeds"}
    assert found.model_dump(include=same) == whole.model_dump(include=same)
    files = out / "weights" / f"{config.key}.pt", tmp_path / "whole.pt"
    ours, theirs = map(load_state, files)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_goes_on_with_another_precision_and_more_steps(data, tmp_path):
    path = tmp_path / "checkpoint.pt"
    train_depth(depth_config(data, steps=2), data, checkpoint=path)
    config = depth_config(data, steps=4, engine=EngineConfig(precision="bf16"))
    _, curves = train_depth(config, data, checkpoint=path)
    assert len(curves["loss"]) == 4


# Two processes


@pytest.fixture(scope="module")
def together(root, tmp_path_factory):
    """What each of two processes found."""
    out = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [train_worker.__file__, str(root), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(command, env=environment, check=True, timeout=600)
    return {name: [load_state(out / f"{name} {rank}.pt") for rank in (0, 1)] for name in TOGETHER}


@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_stopped_once_train_as_one(data, together, name):
    (first, curves), (second, others) = together[name]
    with train_worker.in_float64():
        net, alone = train_depth(depth_config(data, **TOGETHER[name]), data, ranks=ALONE)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert others["loss"] == curves["loss"]
    torch.testing.assert_close(curves["loss"], alone["loss"], rtol=1e-9, atol=1e-9)
    assert curves["test"][-1] == pytest.approx(alone["test"][-1])
    torch.testing.assert_close(dict(first), dict(net.state_dict()), rtol=1e-9, atol=1e-9)


def test_repairs_are_for_one_process(data):
    norm = UBNForm(stats_grad="none", repair="both")
    with pytest.raises(ValueError, match="with 2 processes: a repair knows the rows of its own"):
        make_net(depth_config(data, norm=norm), Ranks(0, 2, torch.device("cpu")))


# From the command line


def test_the_command_makes_a_record_once(root, data, tmp_path, monkeypatch, capsys):
    config = DepthConfig(
        data=split_data(data.frames, "by_drive").fingerprint,
        **depth_config(data, steps=1).model_dump(exclude={"data", "experiment"}),
    )
    (tmp_path / "run.json").write_text(config.model_dump_json())

    def command(packed):
        options = ["--records", "records", "--checkpoints", "checkpoints", "--workers", "0"]
        options += ["--split", "by_drive"]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["train", "run.json", str(packed), *options])
        return main(), capsys.readouterr()

    for _ in range(2):
        code, said = command(root / "packed")
        assert code == 0 and said.out.startswith(f"{config.key}: delta1 0.")
    assert [p.name for p in (tmp_path / "records").iterdir()] == [f"depth-{config.key}.json"]
    code, said = command(tmp_path / "nowhere")
    assert code == 1 and said.err.startswith("train: ") and "nowhere" in said.err


# What is ours in training


def test_images_and_their_depth_are_mirrored_together():
    images = torch.arange(2 * 1 * 2 * 3).reshape(2, 1, 2, 3).repeat(20, 1, 1, 1)
    pictures, depth = mirrored(np.random.default_rng(0), images, images[:, 0])
    assert torch.equal(pictures[:, 0], depth)
    flipped = (pictures == images.flip(-1)).flatten(1).all(1)
    same = (pictures == images).flatten(1).all(1)
    assert torch.equal(flipped, ~same) and 10 < flipped.sum() < 30


def test_the_averages_see_both_batches_and_x_its_own_statistics():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    ours, x, y = copy.deepcopy(net), torch.randn(6, 3).double(), 2 + torch.randn(9, 3).double()
    with torch.no_grad():
        net(torch.cat([x, y]))
    wanted, averages = {**net[1].state_dict()}, net[1].running_mean.clone()
    found = averages_then_own(ours, x, y)
    assert torch.equal(ours[1].running_mean, averages)
    assert torch.equal(ours[1].running_var, wanted["running_var"])
    assert torch.equal(found, net(x)) and ours[1].momentum == 0.1


def test_a_cosine_schedule_falls_from_the_rate_to_nothing(data):
    config = depth_config(data, schedule="cosine", learning_rate=0.5)
    assert [config.rate(share) for share in (0, 0.5, 1)] == pytest.approx([0.5, 0.25, 0])
    assert depth_config(data, learning_rate=0.5).rate(0.9) == 0.5


def test_a_warm_up_over_all_steps_is_batch_normalization(data):
    """In nets of the same weights; the averages, which see no unlabeled row either, too."""
    warm, _ = train_depth(depth_config(data, norm=UBNForm(), warmup=1.0), data, ranks=ALONE)
    plain, _ = train_depth(depth_config(data, norm=BNConfig()), data, ranks=ALONE)
    for ours, theirs in zip(warm.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_labeled_rows_can_take_the_place_of_unlabeled_ones(data):
    config = depth_config(data, norm=UBNForm(), unlabeled_from="labeled")
    loader = make_loader(config, data, ALONE)
    labeled, _ = data.labeled(config.labels)
    assert set(loader.unlabeled) == set(labeled)


def test_predicting_convolutions_begin_with_a_part_of_their_weights(data):
    small, whole = (make_net(depth_config(data, start=start), ALONE) for start in (0.1, 1.0))
    assert torch.equal(small.disp1.weight, 0.1 * whole.disp1.weight)
    assert torch.equal(small.cnv1[0].weight, whole.cnv1[0].weight)


def test_fewer_labels_than_a_batch_are_refused_in_a_sentence(data):
    config = depth_config(data, labels=EveryLabels(k=24), labeled_batch=2)
    with pytest.raises(
        ValueError, match="1/24 leaves 1 labeled frames, fewer than a labeled batch"
    ):
        make_loader(config, data, ALONE)


def test_labels_are_drawn_from_all_frames_or_from_few_places(data):
    few, many = (set(data.labeled(DrawnLabels(k=k, seed=1))[0]) for k in (8, 2))
    assert len(few) == 3 and len(many) == 12 and few < many
    assert few != set(data.labeled(DrawnLabels(k=8, seed=2))[0])
    labeled, unlabeled = data.labeled(PlacesLabels(k=6, places=1, of=4, seed=0))
    assert len(labeled) == 4 and np.ptp(labeled) < 6 and len(unlabeled) == 20
    with pytest.raises(ValueError, match="expected at least the 12 labels"):
        data.labeled(PlacesLabels(k=2, places=1, of=4))
