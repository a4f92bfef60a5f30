"""The runs behind the claims of sections 3.1 and 3.2: which there are, and what makes each."""

from collections.abc import Callable

from experiments.common.records import Config, Record
from experiments.method.equations import IdentitiesConfig, run_identities
from experiments.method.implementation import ImplementationConfig, run_implementation
from experiments.method.step_cost import StepCostConfig, run_step_cost

EXPERIMENTS: dict[str, tuple[type[Config], Callable[..., Record]]] = {
    "identities": (IdentitiesConfig, run_identities),
    "implementation": (ImplementationConfig, run_implementation),
    "step_cost": (StepCostConfig, run_step_cost),
}
LEAST_TIMINGS = 5  # of the steps, whose times scatter: what the ledger asks for


def method_runs(seeds: int) -> list[Config]:
    """Return the configurations of all runs, seeds from 0 on.

    Args:
        seeds: Random nets behind each claim; steps are timed with five nets at least.

    Raises:
        ValueError: There is no seed.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}: at least one run of each kind is needed.")
    return [
        kind(seed=seed)
        for name, (kind, _) in EXPERIMENTS.items()
        for seed in range(max(seeds, LEAST_TIMINGS) if name == "step_cost" else seeds)
    ]


def make_run(config: Config) -> Record:
    """Make a configuration's record."""
    return EXPERIMENTS[config.experiment][1](config)
