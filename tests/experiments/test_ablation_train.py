"""The ablation's trainer on a problem of a few points: who sees which rows, and what for."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.ablation.methods import (
    UBN,
    Ghost,
    Group,
    Method,
    Renorm,
    Rows,
    Setting,
    Split,
    Teacher,
)
from experiments.ablation.norms import BatchRenorm
from experiments.ablation.train import refreshed, row_batches, train
from oracle import oracle_training

SIZES = {"labeled": 12, "unlabeled": 30, "other": 30}
RATE = 0.01
METHODS = {
    "BN": Method(),
    "averages see": Method(averages_see=True),
    "UBN": Method(norm=UBN()),
    "UBN, weight": Method(norm=UBN(unlabeled_weight=1), rows=Rows(pool="labeled", number="all")),
    "ghost": Method(norm=Ghost(ghost=2)),
    "renorm": Method(norm=Renorm(r_max=3, d_max=5)),
    "group": Method(norm=Group(per_group=2)),
    "dropout": Method(dropout=0.2),
    "teacher": Method(teacher=Teacher(weight=1)),
    "teacher, split": Method(norm=Split(), teacher=Teacher(weight=1)),
}
BLIND = ("BN", "ghost", "renorm", "group", "dropout")  # to all unlabeled rows


@pytest.fixture(autouse=True)
def in_double_precision():
    """Also the layers that a method makes."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Points:
    """Two classes of points; notes what it was asked for."""

    side_by_side = False

    def __init__(self, seed=3, poison=()):
        self.seeds, self.asked, self.students = (seed,), [], []
        generator = torch.Generator().manual_seed(0)
        self.pools = {
            pool: torch.randn(size, 2, generator=generator) + 1 for pool, size in SIZES.items()
        }
        self.classes = (self.pools["labeled"].sum(1) > 2).long()
        self.pools["everything"] = torch.cat([self.pools["labeled"], self.pools["unlabeled"]])
        for pool in poison:
            self.pools[pool] = torch.full_like(self.pools[pool], torch.nan)

    def net(self):
        # No bias before a normalization: its gradient is rounding, of which Adam makes whole steps.
        self.kept = nn.Sequential(
            nn.Linear(2, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(),
            nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(),
            nn.Linear(6, 2),
        )  # fmt: skip
        return self.kept

    def size(self, pool):
        return len(self.pools[pool])

    def inputs(self, pool, rows):
        self.asked.append((pool, rows))
        return self.pools[pool][rows]

    def targets(self, rows):
        return self.classes[rows]

    def loss(self, output, targets):
        self.students.append(parameters(self.kept))
        return cross_entropy(output, targets)

    def disagreement(self, student, teacher):
        assert student.requires_grad and not teacher.requires_grad
        return (student - teacher).square().mean()

    def disturbed(self, inputs):
        return inputs + 0.1 * torch.randn_like(inputs)

    def joined(self, outputs, first):
        return outputs[:first], outputs[first:]

    def refreshing(self):
        everything = self.pools["everything"]
        yield everything[everything[:, 0].argsort()]  # in an order that is not random

    def rows_of(self, *pools):
        return [rows for pool, rows in self.asked if pool in pools]


class NormalizedInput(Points):
    """A net whose only normalization sees the rows themselves, so that averages can be foretold."""

    def net(self):
        self.kept = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
        return self.kept


def setting(steps=4, rate=RATE, labeled=5, other=7):
    return Setting(
        labels=1, labeled_batch=labeled, other_batch=other, learning_rate=rate, steps=steps
    )


def parameters(net):
    return [p.detach().clone() for p in net.parameters()]


def moved(running, rows, momentum=0.1):
    """Both averages after a batch of rows [n, 2]."""
    batch = rows.mean(0), rows.var(0)
    return [(1 - momentum) * old + momentum * new for old, new in zip(running, batch, strict=True)]


def equal(one, other):
    return all(map(torch.equal, one, other))


# What runs of a seed share


@pytest.mark.parametrize("name", METHODS)
def test_runs_of_a_seed_share_weights_and_labeled_batches(name):
    """A rate of 0 leaves the weights where they began."""
    plain, problem = Points(), Points()
    expected = train(METHODS["BN"], setting(rate=0), plain)
    found = train(METHODS[name], setting(rate=0), problem)
    assert [p for p in parameters(expected) if p.dim() == 2], "no weights to compare"
    for one, other in zip(parameters(expected), parameters(found), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)  # a teacher's is an average
    batches, ours = plain.rows_of("labeled"), problem.rows_of("labeled")
    if name == "UBN, weight":  # which draws other rows from the same pool
        ours = ours[::2]
    assert len(batches) == 4 and equal(batches, ours)


@pytest.mark.parametrize("name", ["dropout", "teacher, split"])
def test_a_run_can_be_made_again_and_leaves_torchs_generator_alone(name):
    torch.manual_seed(0)
    first = train(METHODS[name], setting(), Points()).state_dict()
    torch.rand(3)
    before = torch.get_rng_state()
    again = train(METHODS[name], setting(), Points()).state_dict()
    assert equal(first.values(), again.values()) and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("options", [None, dict(stats_grad="none"), dict(stats_grad="corrected")])
def test_training_is_that_of_a_plain_loop(options):
    method = Method() if options is None else Method(norm=UBN(**options))
    problem = Points()
    found = train(method, setting(), problem)
    net = train(Method(), setting(rate=0, steps=1), Points())  # as it begins
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.reset_running_stats()
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    labeled = problem.rows_of("labeled")
    others = problem.rows_of("unlabeled") or labeled  # which batch normalization does not read
    batches = [
        (problem.pools["labeled"][x], problem.classes[x], problem.pools["unlabeled"][y])
        for x, y in zip(labeled, others, strict=True)
    ]
    oracle_training(net, batches, optimizer, options)
    for name, value in net.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-8, atol=1e-8)


# Who sees unlabeled rows


@pytest.mark.parametrize("name", BLIND)
def test_no_unlabeled_row_reaches_a_method_without_a_use_for_it(name):
    """Neither weights nor averages: all rows but the labeled ones may be NaN."""
    problem = Points(poison=("unlabeled", "other", "everything"))
    expected, found = (train(METHODS[name], setting(), p) for p in (Points(), problem))
    assert equal(expected.state_dict().values(), found.state_dict().values())
    assert {pool for pool, _ in problem.asked} == {"labeled"}


@pytest.mark.parametrize("name", ["UBN", "teacher", "teacher, split"])
def test_the_others_meet_the_poison(name):
    with pytest.raises(FloatingPointError, match=r"The loss is nan at step 1 of .*lower the rate"):
        train(METHODS[name], setting(), Points(poison=("unlabeled",)))


def test_averages_see_changes_the_averages_only():
    plain, problem = NormalizedInput(), NormalizedInput()
    expected = train(Method(), setting(), plain)
    found = train(METHODS["averages see"], setting(), problem)
    assert equal(expected.parameters(), found.parameters())
    bn, running = [torch.zeros(2), torch.ones(2)], [torch.zeros(2), torch.ones(2)]
    pairs = zip(problem.rows_of("labeled"), problem.rows_of("unlabeled"), strict=True)
    for labeled, others in pairs:
        bn = moved(bn, problem.pools["labeled"][labeled])
        running = moved(running, problem.pools["labeled"][labeled])
        running = moved(running, problem.pools["unlabeled"][others])
    for net, values in ((expected, bn), (found, running)):
        layer = net[0]
        torch.testing.assert_close([layer.running_mean, layer.running_var], values)
    assert not torch.allclose(bn[0], running[0])


# The mean teacher


@pytest.mark.parametrize("decay", [0.7, 0.99])
def test_the_teacher_is_a_plain_mean_and_then_a_moving_average(decay):
    """The mean of the weights after each step so far, until a new one weighs 1 - decay in it."""
    problem = Points()
    net = train(Method(teacher=Teacher(weight=1, decay=decay)), setting(6), problem)
    after = [*problem.students[1:], parameters(problem.kept)]
    expected = after[0]
    for number, student in enumerate(after[1:], start=2):
        share = max(1 - decay, 1 / number)
        expected = [(1 - share) * a + share * s for a, s in zip(expected, student, strict=True)]
    torch.testing.assert_close(parameters(net), expected, rtol=1e-10, atol=1e-12)


def test_the_teachers_weight_grows_over_the_first_third():
    problem, shares = Points(), []

    def disagreement(student, teacher):
        one = torch.ones((), dtype=student.dtype, requires_grad=True)
        one.register_hook(lambda gradient: shares.append(gradient.item()))
        return one * 1

    problem.disagreement = disagreement
    train(Method(teacher=Teacher(weight=2)), setting(12), problem)
    assert shares == pytest.approx([0, 0.5, 1, 1.5, *[2] * 8])


# Rows


def first(batches, number):
    return [next(batches) for _ in range(number)]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(SIZES)), st.integers(1, 40) | st.just("all"), st.booleans())
def test_batches_have_the_rows_that_were_asked_for(pool, number, fresh):
    problem = Points()
    size = SIZES[pool]
    wanted = size if number == "all" else min(number, size)
    batches = first(row_batches(problem, Rows(pool=pool, number=number, fresh=fresh), salt=1), 6)
    for batch in batches:
        assert batch.shape == (wanted,) and 0 <= batch.min() and batch.max() < size
    if not fresh:
        assert all(torch.equal(batch, batches[0]) for batch in batches)
    elif wanted < size:
        assert not all(torch.equal(batch, batches[0]) for batch in batches)
    if fresh:  # every epoch visits all
        visits = torch.cat(batches).bincount(minlength=size)
        assert visits.max() - visits.min() <= 1


@pytest.mark.parametrize(
    ("rows", "pool", "number"),
    [
        (Rows(number=99), "unlabeled", 30),
        (Rows(pool="labeled", number=3), "labeled", 3),
        (Rows(pool="everything", number="all"), "everything", 42),
    ],
)
def test_training_draws_the_rows_that_the_method_names(rows, pool, number):
    problem = Points()
    train(Method(norm=UBN(), rows=rows), setting(3), problem)
    assert [name for name, _ in problem.asked] == ["labeled", pool] * 3
    assert [len(batch) for _, batch in problem.asked[1::2]] == [number] * 3
    if pool == "labeled":  # drawn for themselves, not a part of the labeled batch once more
        sets = [set(batch.tolist()) for batch in problem.rows_of("labeled")]
        assert any(not others <= labeled for labeled, others in zip(*[iter(sets)] * 2, strict=True))


# Refreshed statistics


def inputs_of_norms(net, rows):
    """What reaches each normalization in evaluation, and the layer."""
    found = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: found.append((layer, inputs[0])))
        for layer in net.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    with torch.no_grad():
        net.eval()(rows)
    for hook in hooks:
        hook.remove()
    return found


NEAR = dict(rtol=0.03, atol=0.03)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "group"])
def test_refreshed_statistics_are_those_of_what_the_refreshed_net_makes(name):
    problem = Points()
    net = train(METHODS[name], setting(), problem)
    for layer in net.modules():
        if isinstance(layer, BatchRenorm):
            layer.steps = 1000  # limits open, as late in training
    before = copy.deepcopy(net.state_dict())
    again = refreshed(net, problem)
    assert again is not net and equal(before.values(), net.state_dict().values())
    layers = inputs_of_norms(again, *problem.refreshing())
    assert len(layers) == 2
    for layer, rows in layers:
        spread = rows.std(0).mean()
        # Deeper layers differ by the unbiased variance of those before them.
        torch.testing.assert_close(layer.running_mean / spread, rows.mean(0) / spread, **NEAR)
        torch.testing.assert_close(layer.running_var / spread**2, rows.var(0) / spread**2, **NEAR)
