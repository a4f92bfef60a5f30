"""A part of the study's runs, with fewer seeds and steps: to see that it works, in minutes."""

from collections.abc import Sequence
from pathlib import Path

from experiments.ablation import plan
from experiments.ablation.config import AblationConfig, Domain
from experiments.ablation.study import reader
from experiments.ablation.tuning import tune


def sample_runs(
    tuning: Path | str,
    *,
    domains: Sequence[Domain],
    ingredients: Sequence[str] = (),
    seeds: int,
    steps: int,
) -> list[AblationConfig]:
    """Return runs that the study's claims rest on, made smaller; its own where nothing is cut.

    Args:
        tuning: Folder of the tuning's records, which say how each peer is set.
        domains: On what, but for depth, whose frames a sample does not have.
        ingredients: Which of them; none named means all.
        seeds: Of each run, at most.
        steps: Of each run, at most.

    Raises:
        ValueError: There is no such ingredient, or no run of such a size.
    """
    runs = [
        plan.smaller(config, seeds, steps)
        for domain in domains
        for config in plan.claimed(domain, tune(domain, reader(Path(tuning))))
    ]
    known = list(dict.fromkeys(run.ingredient for run in runs))
    if unknown := sorted(set(ingredients) - set(known)):
        raise ValueError(f"There is no ingredient {unknown[0]!r}; there are: {', '.join(known)}.")
    chosen = [run for run in runs if not ingredients or run.ingredient in ingredients]
    return [AblationConfig.model_validate(run.model_dump()) for run in chosen]  # sizes too
