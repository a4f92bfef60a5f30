"""One run of the ablation: a method on a domain, for some seeds.

One trainer serves all domains and methods, so that nothing differs but the method.
"""

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.ablation.domains import Problem, Scenes, problems_of
from experiments.ablation.methods import AblationConfig, Method, Rows, Setting, Teacher
from experiments.ablation.norms import BatchNormVariant, SplitBatchNorm
from experiments.common.records import Result, recorded
from experiments.common.training import initialized_by, random_batches
from ubnlib.diagnostics import refresh_statistics
from ubnlib.forward import two_passes


@recorded
def run_ablation(config: AblationConfig, scenes: Scenes | None = None) -> Result:
    """Train and measure each seed; `scenes` are the frames of a depth domain.

    The metrics are accuracies: `accuracy` on data for testing, `labeled_accuracy` and
    `unlabeled_accuracy` on parts of the training data, and `refreshed_accuracy` on data for testing
    with statistics measured anew after training, None for nets without any. The record names the
    frames of another distribution.
    """
    metrics: dict[str, list[float | None]] = {}
    for problem in problems_of(config, scenes):
        net = train(config.method, config.setting, problem)
        found = problem.measure(net)
        again = refreshed(net, problem)
        unknown = [None] * len(problem.seeds)
        found["refreshed_accuracy"] = problem.measure(again)["accuracy"] if again else unknown
        for name, values in found.items():
            metrics.setdefault(name, []).extend(values)
    other = {} if scenes is None else {"other": [scenes.other.fingerprint]}
    return Result(metrics, {}, other)


def train(method: Method, setting: Setting, problem: Problem) -> nn.Module:
    """Return the trained net, or the teacher; runs of a seed share weights and labeled batches.

    Raises:
        FloatingPointError: The loss is not finite; names the step.
    """
    with initialized_by(problem.seeds[0]):
        net = method.apply(problem.net()).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=setting.learning_rate, fused=True)
        average = _average_of(net, method.teacher)
        own = Rows(pool="labeled", number=setting.labeled_batch)
        labeled = row_batches(problem, own, salt=0)
        usual = method.rows.number or setting.other_batch
        wanted = method.rows.model_copy(update={"number": usual})
        others = row_batches(problem, wanted, salt=1)
        for step in range(setting.steps):
            rows = next(labeled)
            inputs, targets = problem.inputs("labeled", rows), problem.targets(rows)
            beside = None
            if method.sees_unlabeled:
                beside = problem.inputs(wanted.pool, next(others))
            share = min(1.0, 3 * step / setting.steps)
            loss = _loss(method, problem, net, average, inputs, targets, beside, share)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(
                    f"The loss is {loss.item()} at step {step + 1} of {method}: lower the rate."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if average is not None:
                average.update_parameters(net)
            if method.averages_see:
                with torch.no_grad():
                    net(beside)
    trained = net if average is None else average.module
    _tell_labeled_rows(trained, None)
    return trained


def _loss(
    method: Method,
    problem: Problem,
    net: nn.Module,
    average: AveragedModel | None,
    inputs: Tensor,
    targets: Tensor,
    beside: Tensor | None,
    share: float,
) -> Tensor:
    """Return a step's loss."""
    if method.norm.kind == "ubn":
        return problem.loss(two_passes(net, inputs, beside), targets)
    if average is None:
        return problem.loss(net(inputs), targets)
    _tell_labeled_rows(net, len(inputs))
    _tell_labeled_rows(average, len(inputs))
    output = net(torch.cat([inputs, problem.disturbed(beside)]))
    supervised, student = problem.joined(output, len(inputs))
    with torch.no_grad():
        # In training mode, as the student: averages that lag would be another teacher.
        _, teacher = problem.joined(
            average.module(torch.cat([inputs, problem.disturbed(beside)])), len(inputs)
        )
    weight = method.teacher.weight * share
    return problem.loss(supervised, targets) + weight * problem.disagreement(student, teacher)


def _tell_labeled_rows(net: nn.Module, first: int | None) -> None:
    """Tell layers with statistics of both kinds how many labeled rows come first."""
    for layer in net.modules():
        if isinstance(layer, SplitBatchNorm):
            layer.first = first


def _average_of(net: nn.Module, teacher: Teacher | None) -> AveragedModel | None:
    if teacher is None:
        return None

    def move(averaged: Sequence[Tensor], current: Sequence[Tensor], number: Tensor) -> None:
        # A plain mean at first, or the first weights would stay in it for long.
        decay = min(teacher.decay, 1 - 1 / (int(number) + 1))
        get_ema_multi_avg_fn(decay)(averaged, current, number)

    return AveragedModel(net, multi_avg_fn=move, use_buffers=True).train()


def row_batches(problem: Problem, wanted: Rows, salt: int) -> Iterator[Tensor]:
    """Yield index batches of the pool without end: [n], or [n, seeds] for nets side by side.

    `salt` tells the generators of one seed apart.
    """
    size = problem.size(wanted.pool)
    number = size if wanted.number == "all" else min(wanted.number, size)
    each = [
        random_batches(number, size, torch.Generator().manual_seed(2 * seed + salt))
        for seed in problem.seeds
    ]
    while True:
        batch = torch.stack([next(batches) for batches in each], 1)
        batch = batch if problem.side_by_side else batch[:, 0]
        yield batch
        while not wanted.fresh:
            yield batch


def refreshed(net: nn.Module, problem: Problem) -> nn.Module | None:
    """Return a copy with statistics measured anew over training rows of both kinds (AdaBN).

    All but the normalization is in evaluation mode, and variants of batch normalization are plain
    ones, as they will be when the statistics are used. None where the net has no moving averages.
    """
    if not any(isinstance(layer, _BatchNorm) for layer in net.modules()):
        return None
    again = copy.deepcopy(net).eval()
    for layer in again.modules():
        if isinstance(layer, BatchNormVariant):
            layer.plain = True
    return refresh_statistics(again, problem.refreshing())
