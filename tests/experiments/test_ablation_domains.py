"""What the ablation trains and measures on: which rows are where, and runs from end to end."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from experiments.ablation.domains import (
    DepthProblem,
    DigitsProblem,
    Scenes,
    SpiralProblem,
    problems_of,
)
from experiments.ablation.methods import (
    UBN,
    AblationConfig,
    Group,
    Method,
    Renorm,
    Setting,
    Split,
    Teacher,
)
from experiments.ablation.train import run_ablation, train
from experiments.common.training import initialized_by
from experiments.depth.data import DepthData
from experiments.toy.spiral import SpiralNet, make_spiral
from ubnlib.kitti import FrameKey

METHODS = {
    "BN": Method(),
    "UBN": Method(norm=UBN()),
    "renorm": Method(norm=Renorm(r_max=3, d_max=5)),
    "group": Method(norm=Group(per_group=8)),
    "averages see": Method(averages_see=True),
    "teacher": Method(norm=Split(), teacher=Teacher(weight=1)),
}


def setting(labels, steps=3, batch=4, rate=1e-2):
    return Setting(
        labels=labels, labeled_batch=batch, other_batch=batch, learning_rate=rate, steps=steps
    )


def rows_of(tensor):
    """Each row's bytes, to count and compare."""
    return [row.contiguous().numpy().tobytes() for row in tensor]


def pool_of(problem, pool):
    return problem.inputs(pool, torch.arange(problem.size(pool)))


class Watcher(nn.Module):
    """A net that gives every row the first class, and keeps what it was shown."""

    def __init__(self, classes, right=0):
        super().__init__()
        self.shown, self.classes, self.right = [], classes, right

    def forward(self, x):
        self.shown.append(x)
        logits = torch.zeros(*x.shape[: 2 if x.dim() == 3 else 1], self.classes)
        logits[..., self.right] = 1
        return logits


# The spiral

SEEDS = (200, 203, 201)


def spiral_rows(problem, pool):
    return problem.inputs(pool, torch.arange(problem.size(pool))[:, None].expand(-1, len(SEEDS)))


def test_labeled_and_unlabeled_points_are_the_spiral_for_each_seed():
    problem = SpiralProblem(25, SEEDS)
    points, classes = make_spiral(225, 0.0)
    class_of = dict(zip(rows_of(points), classes.tolist(), strict=True))
    everything = Counter(rows_of(points))
    pools = {pool: spiral_rows(problem, pool) for pool in ("labeled", "unlabeled", "everything")}
    targets = problem.targets(torch.arange(50)[:, None].expand(-1, len(SEEDS)))
    for e in range(len(SEEDS)):
        labeled, unlabeled, both = (rows_of(pool[:, e]) for pool in pools.values())
        assert (len(labeled), len(unlabeled)) == (50, 400)
        assert Counter(labeled) + Counter(unlabeled) == Counter(both) == everything
        for row, target in zip(labeled, targets[:, e].tolist(), strict=True):
            if row != rows_of(points[:1])[0]:  # both arms begin at the origin
                assert class_of[row] == target
        assert targets[:, e].bincount().tolist() == [25, 25]
    assert not torch.equal(pools["labeled"][:, 0], pools["labeled"][:, 1])


class PreciseSpiral(SpiralProblem):
    """In float64, where rounding stays small for some steps."""

    def net(self):
        return super().net().double()

    def inputs(self, pool, rows):
        return super().inputs(pool, rows).double()


@pytest.mark.parametrize("name", ["BN", "UBN", "averages see"])
def test_nets_side_by_side_are_trained_as_they_would_be_alone(name):
    """Up to rounding: no layer, batch or loss mixes the seeds."""
    ours = train(METHODS[name], setting(25, steps=4), PreciseSpiral(25, SEEDS))
    for e, seed in enumerate(SEEDS):
        alone = train(METHODS[name], setting(25, steps=4), PreciseSpiral(25, (seed,)))
        template = SpiralNet().double()
        found, expected = ours.member(e, template), alone.member(0, template)
        torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=1e-6)
        with initialized_by(seed):
            begun = SpiralNet().double()
        assert (begun[0].weight - found[0].weight).abs().max() > 0.01, "nothing was learned"


# Digits


def judged_images(problem):
    watcher = Watcher(classes=10)
    problem.measure(watcher)
    return watcher.shown[0]


@pytest.mark.parametrize("labels", [5, 50])
def test_every_class_has_so_many_labeled_images_and_the_others_none(labels):
    problem = DigitsProblem(labels, 200, "test")
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 8 - 1
    class_of = dict(zip(rows_of(images), bunch.target.tolist(), strict=True))
    labeled, unlabeled = (rows_of(pool_of(problem, pool)) for pool in ("labeled", "unlabeled"))
    targets = problem.targets(torch.arange(len(labeled)))
    assert [class_of[image] for image in labeled] == targets.tolist()
    assert targets.bincount().tolist() == [labels] * 10
    assert not set(labeled) & set(unlabeled)
    assert Counter(labeled) + Counter(unlabeled) == Counter(rows_of(pool_of(problem, "everything")))
    again = DigitsProblem(labels, 201, "test")
    assert set(rows_of(pool_of(again, "labeled"))) != set(labeled)


def test_more_labels_than_images_are_refused():
    with pytest.raises(ValueError, match="labels is 300: some class has fewer training images"):
        DigitsProblem(300, 200, "test")


def test_tuning_never_sees_a_test_image():
    """Not in a pool, nor in what is measured, nor in what refreshes."""
    hidden = set(rows_of(judged_images(DigitsProblem(10, 200, "test"))))
    config = AblationConfig(
        domain="digits", stage="tuning", method=Method(), setting=setting(10), seeds=(900, 901)
    )
    for problem in problems_of(config, None):
        watcher = Watcher(classes=10)
        problem.measure(watcher)
        pools = [pool_of(problem, pool) for pool in ("labeled", "unlabeled", "everything")]
        for images in (*watcher.shown, *pools, *problem.refreshing()):
            assert not hidden & set(rows_of(images))
        assert problem.size("other") == problem.size("unlabeled")
    (claim,) = problems_of(config.model_copy(update={"stage": "claims", "seeds": (200,)}), None)
    assert set(rows_of(judged_images(claim))) == hidden


# Depth


class MadeUpFrames:
    """Frames of random images; a pixel of the image names the frame, and so does its depth."""

    def __init__(self, drives=6, frames=8, seed=0, fingerprint="made-up"):
        self.fingerprint = fingerprint
        self.keys = [
            FrameKey("2011_09_26", f"{d:04}", 2, i) for d in range(drives) for i in range(frames)
        ]
        generator = torch.Generator().manual_seed(seed)
        shape = len(self.keys), 3, 16, 24
        self.images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        self.maps = 10 + torch.arange(len(self.keys)).float()[:, None, None].expand(-1, 16, 24)

    def __len__(self):
        return len(self.keys)

    def index(self, key):
        return self.keys.index(key)

    def depth(self, index):
        return self.maps[index]

    def batch(self, indices, *, depth=True):
        return SimpleNamespace(images=self.images[indices], depth=lambda: self.maps[indices])


def scenes(seed=0, fingerprint="made-up"):
    """Four drives to train on, two to test on, and other frames."""
    frames = MadeUpFrames(seed=seed, fingerprint=fingerprint)
    data = DepthData(frames, frames.keys[:32], frames.keys[32:])
    return Scenes(data, MadeUpFrames(drives=2, seed=9, fingerprint="elsewhere"), {})


def depth_problem(labels=4, seed=200):
    given = scenes()
    return DepthProblem(given.data, labels, seed, given.other, given.depth_range)


def as_images(inputs):
    return rows_of(((inputs + 0.5) * 255).round().to(torch.uint8))


def test_frames_are_labeled_unlabeled_or_for_testing():
    problem = depth_problem()
    frames = problem.data.frames
    pools = {p: as_images(pool_of(problem, p)) for p in ("labeled", "unlabeled", "everything")}
    assert [len(pool) for pool in pools.values()] == [8, 24, 32]
    assert sorted(pools["labeled"] + pools["unlabeled"]) == sorted(pools["everything"])
    assert pools["everything"] == rows_of(frames.images[:32])
    assert as_images(pool_of(problem, "other")) == rows_of(problem.other.images)
    targets = problem.targets(torch.arange(8))[:, 0, 0]
    ours = rows_of(frames.images[(targets - 10).long()])
    assert ours == pools["labeled"], "depth maps of other frames"


# Runs


def config(domain, name="BN", seeds=(200,), data="", **options):
    labels = {"spiral": 25, "digits": 10}.get(domain, 4)
    steps = dict(setting=setting(labels, **options))
    return AblationConfig(domain=domain, method=METHODS[name], data=data, seeds=seeds, **steps)


def test_a_depth_run_takes_the_frames_that_it_names():
    given = scenes()
    wanted = config("drives", data=given.data.fingerprint, seeds=(200, 201))
    problems = list(problems_of(wanted, given))
    assert [problem.seeds for problem in problems] == [(200,), (201,)]
    assert all(p.data is given.data and p.other is given.other for p in problems)
    for other in (None, scenes(fingerprint="others")):
        with pytest.raises(ValueError, match="give its frames, or make its configuration with"):
            list(problems_of(wanted, other))


METRICS = {"accuracy", "labeled_accuracy", "unlabeled_accuracy", "refreshed_accuracy"}


@pytest.mark.parametrize(
    ("domain", "name"),
    [*(("spiral", name) for name in METHODS), ("digits", "teacher"), ("drives", "UBN"),
     ("drives", "group"), ("drives", "teacher")],
)  # fmt: skip
def test_a_run_has_a_number_for_each_seed(domain, name):
    given, seeds = (scenes(), (200,)) if domain == "drives" else (None, SEEDS)
    data = given.data.fingerprint if given else ""
    record = run_ablation(config(domain, name, seeds, data, steps=1, batch=2), given)
    assert record.frames == ({"other": [given.other.fingerprint]} if given else {})
    assert record.seeds == list(seeds) and record.metrics.keys() == METRICS
    for metric, values in record.metrics.items():
        assert len(values) == len(seeds)
        if name == "group" and metric == "refreshed_accuracy":
            assert values == [None] * len(seeds)
        else:
            assert all(0 <= value <= 1 for value in values)


def test_a_seed_has_the_same_numbers_whatever_other_seeds_run_before_it():
    alone = run_ablation(config("digits", "UBN", (201,), steps=1)).metrics
    second = run_ablation(config("digits", "UBN", (200, 201), steps=1)).metrics
    assert alone == {name: values[1:] for name, values in second.items()}
