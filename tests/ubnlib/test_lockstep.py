"""The two halves of an interleaved step; test_other_models.py has what they compute."""

import ctypes
import os
import pathlib
import signal
import threading
import time
from operator import is_

import pytest
import torch
from torch import nn

from small_nets import interleaved
from ubnlib import UnsupervisedBatchNorm1d, convert_ubn, ubn_forward


class Path(nn.Module):
    """Layers whose order depends on the number of rows: labeled rows are 3, unlabeled ones 5."""

    def __init__(self, labeled, unlabeled):
        super().__init__()
        self.norms = nn.ModuleList(UnsupervisedBatchNorm1d(2) for _ in range(3))
        self.paths = {3: labeled, 5: unlabeled}

    def forward(self, x):
        for index in self.paths[len(x)]:
            if index == "fail":
                raise ArithmeticError("something of the model's own")
            if index == "interrupt":
                raise KeyboardInterrupt
            if index == "signal":
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
                continue
            x = self.norms[index](x)
        return x


def assert_refused(model, error, message=None):
    """The step ends in this error, and leaves neither a thread nor a statistic, nor a weight."""
    threads, own = threading.active_count(), list(model.parameters())
    given = {name: p.detach().clone() for name, p in model.named_parameters()}

    def call(batch):
        return torch.func.functional_call(model, given, (batch,))

    with pytest.raises(error, match=message):
        ubn_forward(model, torch.randn(3, 2), torch.randn(5, 2), interleave=True, call=call)
    assert threading.active_count() == threads
    assert all(map(is_, model.parameters(), own))
    for layer in model.norms:
        assert layer._step is None and layer.last_step == ()
        assert layer.num_batches_tracked == 0 and not layer.running_mean.any()


@pytest.mark.parametrize(
    ("labeled", "unlabeled"),
    [
        ([0, 1, 2], [0, 1]),
        ([0, 1], [0, 1, 2]),
        ([0, 1, 2], [0, 2, 1]),
        ([0, 1, 2], []),
        ([], [0]),
        ([0], [0, 0]),
        ([0, 0], [0]),
    ],
)
def test_halves_that_take_different_paths(labeled, unlabeled):
    message = "must take the same path through the model"
    assert_refused(Path(labeled, unlabeled), RuntimeError, message)


@pytest.mark.parametrize("where", [0, 1, 3])
@pytest.mark.parametrize("half", ["labeled", "unlabeled", "both"])
@pytest.mark.parametrize("kind", ["fail", "interrupt", "signal"])
def test_a_failure_in_either_half_is_raised_and_leaves_nothing(kind, half, where):
    good, bad = [0, 1, 2], [0, 1, 2]
    bad.insert(where, kind)
    model = Path(good if half == "unlabeled" else bad, good if half == "labeled" else bad)
    assert_refused(model, ArithmeticError if kind == "fail" else KeyboardInterrupt)
    model.paths = {3: good, 5: good}
    interleaved(model, torch.randn(3, 2), torch.randn(5, 2))
    assert model.norms[0].num_batches_tracked == 1


def test_random_layers_draw_in_one_order_that_the_seed_fixes():
    def output():
        torch.manual_seed(3)
        norms = [UnsupervisedBatchNorm1d(8) for _ in range(3)]
        model = nn.Sequential(*(m for norm in norms for m in (nn.Linear(8, 8), norm, nn.Dropout())))
        return interleaved(model, torch.randn(40, 8), torch.randn(60, 8))

    first = output()
    assert all(torch.equal(first, output()) for _ in range(5))


@pytest.mark.parametrize("kind", [int, bool])
def test_what_each_half_notes_of_its_own_rows_is_its_own(kind):
    class Upright(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
            self.tall = kind(False)

        def forward(self, x):
            self.tall = kind(x.shape[-2] > x.shape[-1])
            x = self.first(x)
            return self.last(x.transpose(-1, -2) if self.tall else x)

    x, y = torch.randn(4, 2, 5, 8), torch.randn(3, 2, 9, 6)
    for wide in (x, x.transpose(-1, -2)):
        model = convert_ubn(Upright())
        expected = convert_ubn(nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2)))
        torch.testing.assert_close(
            ubn_forward(model, wide, y), ubn_forward(expected, x, y.transpose(-1, -2))
        )


def test_the_second_thread_has_the_settings_of_the_first_and_records_no_graph():
    seen = {}

    class Spy(nn.Module):
        def forward(self, x):
            seen[len(x)] = (
                x.requires_grad,
                (
                    torch.is_autocast_enabled("cpu"),
                    torch.get_autocast_dtype("cpu"),
                    torch.is_inference_mode_enabled(),
                    torch.get_default_device().type,
                    torch.get_num_threads(),
                ),
            )
            return x

    model = nn.Sequential(UnsupervisedBatchNorm1d(2), Spy())
    x, y = torch.randn(3, 2), torch.randn(5, 2)
    with torch.autocast("cpu", torch.float16), torch.device("meta"):
        interleaved(model, x, y)
    assert seen[3][1] == seen[5][1] and seen[5][1][:4] == (True, torch.float16, False, "meta")
    assert seen[3][0] and not seen[5][0]
    with torch.inference_mode():
        interleaved(model, x, y)
    assert seen[3] == seen[5] and seen[5][1][2]
    with torch.no_grad():
        interleaved(model, x, y)
    assert not seen[3][0]


def test_both_halves_have_as_many_threads():
    """Of OpenMP, which a new thread has anew, and convolutions go by."""
    loaded = list(pathlib.Path(torch.__file__).parent.glob("lib/lib*omp[.5-]*"))
    if len(loaded) != 1:
        pytest.skip("torch has no OpenMP of its own to ask")
    most = ctypes.CDLL(str(loaded[0])).omp_get_max_threads

    class Asks(nn.Module):
        def forward(self, x):
            found.append(most())
            return x

    found, before = [], torch.get_num_threads()
    model = convert_ubn(nn.Sequential(Asks(), nn.BatchNorm1d(3)))
    torch.set_num_threads(before + 2)
    try:
        ubn_forward(model, torch.randn(4, 3), torch.randn(5, 3), interleave=True)
    finally:
        torch.set_num_threads(before)
    assert found == [before + 2] * 2
