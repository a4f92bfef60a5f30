"""One run of the ablation: a method on a domain, for some seeds."""

from experiments.ablation.config import AblationConfig
from experiments.ablation.domains import Scenes, problems_of
from experiments.ablation.training import refreshed, train
from experiments.common.records import Result, recorded


@recorded
def run_ablation(
    config: AblationConfig, scenes: Scenes | None = None, *, progress: str | None = None
) -> Result:
    """Train and measure each seed.

    The metrics are accuracies: `accuracy` on data for testing, `labeled_accuracy` and
    `unlabeled_accuracy` on parts of the training data, and `refreshed_accuracy` on data for testing
    with statistics measured anew after training, None for nets without any. The record names the
    frames of another distribution.

    Args:
        config: The run.
        scenes: The frames of a depth domain.
        progress: Label of progress bars; None shows none.
    """
    metrics: dict[str, list[float | None]] = {}
    for problem in problems_of(config, scenes):
        net = train(config.method, config.setting, problem, progress=progress)
        found = problem.measure(net)
        again = refreshed(net, problem)
        unknown = [None] * len(problem.seeds)
        found["refreshed_accuracy"] = problem.measure(again)["accuracy"] if again else unknown
        for name, values in found.items():
            metrics.setdefault(name, []).extend(values)
    other = {} if scenes is None else {"other": [scenes.other.fingerprint]}
    return Result(metrics, {}, other)
