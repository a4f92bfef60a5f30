"""Labeled and unlabeled batches: the order, resuming at any step, and worker processes."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ubnlib.kitti import LabeledUnlabeledLoader, PackedDepth, keep_every
from ubnlib.kitti.loader import rows_of_step

FRAMES = 12
LABELED, UNLABELED = [0, 3, 7], [1, 2, 4, 5, 6, 8, 9]


@pytest.fixture(scope="module")
def frames(tiny_packed):
    return PackedDepth(tiny_packed)


def make(frames, labeled=LABELED, unlabeled=UNLABELED, **changes):
    options = dict(labeled_batch=2, unlabeled_batch=3, steps=9, seed=5) | changes
    return LabeledUnlabeledLoader(frames, labeled, unlabeled, **options)


def which(frames, batch):
    """The positions of a batch's frames, told by their images."""
    images = [frames.image(index) for index in range(len(frames))]
    found = [
        [index for index, image in enumerate(images) if torch.equal(image, one)]
        for one in batch.images
    ]
    assert all(len(each) == 1 for each in found)
    return [each[0] for each in found]


def equal(one, other):
    """Whether two steps are the same."""
    if one is None or other is None:
        return one is other
    return all(
        equal(*pair) if isinstance(pair[0], tuple) else pair[0] is pair[1] or torch.equal(*pair)
        for pair in zip(one, other, strict=True)
    )


# The order


def epochs_laid_end_to_end(of, seed):
    """All positions in order, one epoch after the other."""
    for epoch in itertools.count():
        yield from np.random.default_rng([*seed, epoch]).permutation(of).tolist()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**33), st.integers(0, 1), st.data())
def test_rows_are_epochs_laid_end_to_end(size, of, seed, kind, data):
    stream = epochs_laid_end_to_end(of, (seed, kind))
    expected = [list(itertools.islice(stream, size)) for _ in range(12)]
    for step in data.draw(st.permutations(range(12))):  # in any order, as workers ask
        rows = rows_of_step(step, size, of, (seed, kind))
        assert rows.tolist() == expected[step] and rows.dtype == np.int64
        rows += 1  # the caller's own: no later answer changes


def test_a_late_step_needs_none_of_those_before():
    epoch, start = divmod(4 * 10**9, 6)  # the batch begins in mid-epoch and ends in the next
    orders = [np.random.default_rng([0, 0, epoch + more]).permutation(6) for more in (0, 1)]
    expected = np.concatenate(orders)[start : start + 4]
    np.testing.assert_array_equal(rows_of_step(10**9, 4, 6, (0, 0)), expected)


# Steps


def test_steps_hold_the_frames_of_the_order(frames):
    steps = list(make(frames))
    assert len(steps) == 9
    labeled = [index for step in steps for index in which(frames, step.labeled)]
    unlabeled = [index for step in steps for index in which(frames, step.unlabeled)]
    first, second = epochs_laid_end_to_end(3, (5, 0)), epochs_laid_end_to_end(7, (5, 1))
    assert labeled == [LABELED[next(first)] for _ in range(18)]
    assert unlabeled == [UNLABELED[next(second)] for _ in range(27)]
    for step in steps:
        expected = frames.batch(which(frames, step.labeled))
        assert equal(step.labeled, expected) and step.labeled.depth().any()


def test_unlabeled_batches_never_touch_depth(frames):
    asked = []

    class Watched(PackedDepth):
        def batch(self, indices, *, depth=True):
            asked.append((sorted(set(indices)), depth))
            return super().batch(indices, depth=depth)

    watched = Watched(frames.folder)
    for step in make(watched):
        assert len(step.unlabeled.codes) == 0 and not step.unlabeled.counts.any()
        assert not step.unlabeled.depth().any() and len(step.unlabeled.images) == 3
    with_depth = {index for indices, depth in asked if depth for index in indices}
    without = {index for indices, depth in asked if not depth for index in indices}
    assert with_depth == set(LABELED) and without == set(UNLABELED)


def test_labeled_batches_are_the_same_without_unlabeled_frames(frames):
    alone = list(make(frames, unlabeled=()))
    for one, two in zip(make(frames), alone, strict=True):
        assert equal(one.labeled, two.labeled) and two.unlabeled is None


def test_a_label_set_is_given_as_positions(frames):
    kept = keep_every(frames.keys, 3)
    loader = make(frames, np.flatnonzero(kept), np.flatnonzero(~kept), labeled_batch=4, steps=1)
    assert sorted(which(frames, next(iter(loader)).labeled)) == np.flatnonzero(kept).tolist()
    larger = next(iter(make(frames, [4], labeled_batch=5, unlabeled_batch=20)))  # than the set
    assert which(frames, larger.labeled) == [4] * 5
    found = which(frames, larger.unlabeled)
    assert sorted(found[:7]) == sorted(found[7:14]) == UNLABELED
    for labeled, unlabeled in ((kept, ()), (LABELED, ~kept)):  # the mask of all frames is none
        with pytest.raises(ValueError, match=r"np\.flatnonzero gives those of a mask"):
            make(frames, labeled, unlabeled)


# Parts


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_together_are_what_one_process_takes(frames, parts):
    """Batches of 3 and 5 rows, which the parts cannot share evenly; of 4 parts one has no row."""
    options = dict(labeled_batch=3, unlabeled_batch=5)
    whole = list(make(frames, **options))
    each = [list(make(frames, part=(rank, parts), **options)) for rank in range(parts)]
    for step, batch in enumerate(whole):
        rows = [part[step] for part in each]
        for kind in ("labeled", "unlabeled"):
            one, some = getattr(batch, kind), [getattr(row, kind) for row in rows]
            for rank, part in enumerate(some):
                assert torch.equal(part.images, one.images[rank::parts])
                assert torch.equal(part.depth(), one.depth()[rank::parts])
                assert len(part.images) == -(-(len(one.images) - rank) // parts)
    assert min(len(part[0].labeled.images) for part in each) == (0 if parts == 4 else 3 // parts)


# Going on


@pytest.mark.parametrize("unlabeled", [UNLABELED, ()])
def test_resuming_at_every_step(frames, unlabeled):
    whole = list(make(frames, unlabeled=unlabeled))
    for stop in range(len(whole) + 1):
        first = make(frames, unlabeled=unlabeled)
        seen = list(itertools.islice(iter(first), stop))
        assert len(first) == 9 - stop
        second = make(frames, unlabeled=unlabeled)
        second.load_state_dict(first.state_dict())
        assert len(second) == 9 - stop
        assert equal(tuple(seen + list(second)), tuple(whole))


def test_resuming_with_workers_that_fetch_ahead(frames):
    generator, whole, first = torch.get_rng_state(), list(make(frames)), make(frames, workers=2)
    steps = iter(first)
    seen = [next(steps) for _ in range(4)]  # by now the workers have read further
    state = first.state_dict()
    del steps
    assert state["step"] == 4
    second = make(frames, workers=2)
    second.load_state_dict(state)
    assert equal(tuple(seen + list(second)), tuple(whole))
    assert second.state_dict()["step"] == 9 and len(second) == 0
    assert torch.equal(torch.get_rng_state(), generator)  # reading draws nothing from it


def test_leaving_the_loop_coming_back_and_asking_for_more_steps(frames):
    whole, loader, seen = list(make(frames)), make(frames, steps=6), []
    for stop in (2, 5, 100):
        for step in loader:
            seen.append(step)
            if len(seen) == stop:
                break
    assert equal(tuple(seen), tuple(whole[:6])) and list(loader) == []
    more = make(frames)
    more.load_state_dict(loader.state_dict())
    assert equal(tuple(more), tuple(whole[6:]))
    done = make(frames, steps=2)
    done.load_state_dict(loader.state_dict())
    assert len(done) == 0 and list(done) == []


@pytest.mark.parametrize(
    "change",
    [dict(seed=6), dict(labeled_batch=3), dict(labeled=[3, 0, 7]), dict(unlabeled=())],
    ids=str,
)
def test_the_state_of_another_order_is_refused(frames, change):
    state = make(frames).state_dict()
    other = make(frames, **change)
    with pytest.raises(ValueError, match=r"The state is that of the order \w{16}, .* the same"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="The state is that of the order None"):
        other.load_state_dict({})
    assert other.step == 0


def test_the_state_knows_nothing_of_workers_and_steps_but_of_the_data(frames):
    state = make(frames).state_dict()
    assert set(state) == {"step", "order"}
    make(PackedDepth(frames.folder), workers=3, steps=2).load_state_dict(state)
    other = PackedDepth(frames.folder)
    other.fingerprint = "0" * 16
    with pytest.raises(ValueError, match="The state is that of the order"):
        make(other).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (dict(labeled=()), ValueError, "There is no labeled frame: expected at least one"),
        (dict(labeled_batch=0), ValueError, "labeled_batch is 0 .*: expected whole numbers from 1"),
        (dict(part=(2, 2)), ValueError, r"part is \(2, 2\): expected \(i, n\) with i from 0"),
        (dict(labeled=[0, FRAMES]), IndexError, "expected positions below 12"),
    ],
)
def test_wrong_arguments_are_refused_at_once(frames, change, kind, message):
    with pytest.raises(kind, match=message):
        make(frames, **change)
