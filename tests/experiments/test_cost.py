"""The cost of depth runs: operations against closed forms, steps against the run's own."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.common.training import BNConfig
from experiments.depth import cost
from experiments.depth.config import DepthConfig
from experiments.depth.data import DepthData, EveryLabels
from experiments.depth.engine import EngineConfig
from experiments.depth.flops import PEAKS, assumed_step, flops_of_step
from experiments.depth.forms import UBNForm
from experiments.depth.ranks import alone
from experiments.depth.steps import make_engine, make_loader, make_net
from experiments.depth.train import train_depth
from small_kitti import write_textured
from ubnlib import DispNet
from ubnlib.kitti import KittiRaw, prepare

SIZE = (20, 60)  # so that eight images are more than `ubnlib.forward.SMALL`
N, M = 3, 5
METHODS = {
    "BN": (BNConfig(), "side by side"),
    "side by side": (UBNForm(), "side by side"),
    "two": (UBNForm(), "two"),
    "all, side by side": (UBNForm(stats_grad="all"), "side by side"),
    "all, two": (UBNForm(stats_grad="all"), "two"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cost")
    raw = KittiRaw(write_textured(folder / "raw", frames=range(8)), size=SIZE)
    frames = prepare(raw, folder / "packed", workers=1, progress=False)
    return DepthData(frames, frames.keys[:-2], frames.keys[-2:])


def config_of(method="BN", **changes):
    norm, passes = METHODS[method]
    options = dict(data="none", norm=norm, labels=EveryLabels(k=2), width=0.05, levels=4, steps=4)
    options |= dict(labeled_batch=N, unlabeled_batch=M, engine=EngineConfig(passes=passes))
    return DepthConfig(**options | changes)


def watch_convolutions(net, counts):
    """Note the operations of each convolution's forward pass, by its definition."""

    def note(layer, inputs, output):
        at = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        taps = layer.kernel_size[0] * layer.kernel_size[1]
        to = layer.in_channels * layer.out_channels / at.shape[1]
        counts.append(2 * at.numel() * to * taps)

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(note)
    return net


def operations_of_image(width, levels, size):
    """One image's operations, forward and in the first layer alone."""
    counts = []
    net = watch_convolutions(DispNet(width=width, levels=levels), counts).to("meta")
    net(torch.empty(2, 3, *size, device="meta"))
    return sum(counts) / 2, counts[0] / 2


def expected(method):
    """The operations of a step, where the images themselves have no gradient."""
    f, first = operations_of_image(0.05, 4, SIZE)
    both = 3 * f - first
    return {
        "BN": N * both,
        "side by side": N * both + M * f,
        "two": N * both + (N + M) * f,
        "all, side by side": (N + M) * both,
        "all, two": N * both + (N + M) * both,
    }[method]


@pytest.mark.parametrize("method", METHODS)
def test_operations_of_a_step_are_those_of_its_passes(method):
    assert flops_of_step(config_of(method), SIZE) == pytest.approx(expected(method), rel=1e-12)


def test_what_has_no_unlabeled_rows_or_must_pass_twice_is_counted_so():
    everything = config_of("two", labels=EveryLabels(k=1))
    assert flops_of_step(everything, SIZE) == pytest.approx(expected("BN"))
    two = [config_of("side by side", engine=EngineConfig(compile=True))]
    two.append(config_of("side by side", norm=UBNForm(source="running")))
    assert [flops_of_step(c, SIZE) for c in two] == pytest.approx([expected("two")] * 2)


def test_the_papers_net_has_its_known_number_of_operations():
    config = config_of(width=1.0, levels=7, labeled_batch=128)
    f, first = operations_of_image(1.0, 7, (256, 832))
    assert f == pytest.approx(2 * 14.62e9, rel=5e-4)  # multiplications and additions
    assert flops_of_step(config, (256, 832)) == pytest.approx(128 * (3 * f - first))


@pytest.mark.parametrize("method", METHODS)
def test_a_real_step_has_the_operations_that_are_counted(data, method):
    config = config_of(method, data=data.fingerprint)
    ranks, forward = alone(), []
    loader = make_loader(config, data, ranks, steps=1)
    engine = make_engine(config, make_net(config, ranks), loader, ranks)
    watch_convolutions(engine.model, forward)
    with FlopCounterMode(display=False) as counter:
        engine.train()
    f, _ = operations_of_image(0.05, 4, SIZE)
    images = {"BN": N, "two": 2 * N + M, "all, two": 2 * N + M}.get(method, N + M)
    assert sum(forward) == pytest.approx(images * f)
    # The counter does not see the second thread's forward pass.
    unseen = M * f if "side by side" in method else 0.0
    # No statistics depend on the finest prediction, which has one channel here, as has its input.
    spared = 2 * (images - N) * 2 * 9 * SIZE[0] * SIZE[1] if "all" in method else 0.0
    counted = flops_of_step(config, SIZE) - unseen - spared
    assert counter.get_total_flops() == pytest.approx(counted, rel=1e-12)


def test_time_at_an_assumed_share_of_a_peak():
    config = config_of()
    flops = flops_of_step(config, SIZE)
    for card, peak in PEAKS.items():
        assert assumed_step(config, SIZE, card, 0.25) == pytest.approx(4 * flops / (peak * 1e12))
    with pytest.raises(ValueError, match=r"The peak of 'Abacus' is not known: give one of NVIDIA"):
        assumed_step(config, SIZE, "Abacus")


def test_hours_are_steps_times_seconds():
    config = config_of(steps=None, epochs=160, labeled_batch=32, unlabeled_batch=96)
    assert cost.estimate(config, 42_304, 0.36, runs=3) == pytest.approx(3 * 52_880 / 10_000)
    assert cost.estimate(config_of(steps=7_200), 1, 0.5) == pytest.approx(1)


def test_announcement_adds_up_runs_and_asks_once_a_kind_of_step():
    asked = []

    def seconds(config):
        asked.append((config.norm.kind, config.labels.k))
        return {"bn": 36.0, "ubn": 72.0}[config.norm.kind]

    configs = [
        config_of(method, labels=EveryLabels(k=k), seed=seed, steps=1_000, learning_rate=k / 100)
        for method in ("BN", "side by side")
        for k in (8, 2, 1)
        for seed in range(2)
    ]
    said = cost.announce(configs, 1, seconds, "a card", gpu=True)
    assert said == "12 runs x 1,000 steps: about 180 GPU-hours on a card"
    # Where all frames have a label, a step of UBN reads no others.
    assert asked == [("bn", 8), ("ubn", 8), ("ubn", 1)]
    said = cost.announce([*configs, config_of(steps=5_000)], 1, seconds, "this machine")
    assert said == "13 runs of 17,000 steps in all: about 230 hours on this machine"
    assert cost.announce([], 1, seconds, "this machine") == "0 runs: nothing is left to do"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_is_the_median_after_those_that_do_not_count(data, monkeypatch, workers):
    ignored = [100.0 * step for step in range(cost.WARM_UP + cost.READ_AHEAD * workers)]
    clock = iter([*ignored, *(ignored[-1] + after for after in (5.0, 8.0, 28.0))])
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    config = config_of("side by side", data=data.fingerprint, steps=10**6)
    assert cost.measure_step(config, data, 3, workers=workers) == 5.0  # of 5, 3 and 20
    assert next(clock, None) is None, "all steps were made"


@pytest.mark.parametrize("method", ["BN", "side by side", "two"])
def test_the_engine_that_is_timed_is_that_of_a_run(data, method):
    engine = EngineConfig(accumulate=2, passes=METHODS[method][1])
    config = config_of(
        method, data=data.fingerprint, engine=engine, labeled_batch=4, unlabeled_batch=6, seed=3
    )
    loader = make_loader(config, data, alone(), steps=4)
    timed = make_engine(config, make_net(config, alone()), loader, alone())
    timed.train()
    _, curves = train_depth(config.model_copy(update=dict(evaluations=1)), data)
    assert timed.curves["loss"] == curves["loss"] and len(curves["loss"]) == 4
