"""The runs behind the claims of sections 3.1 and 3.2: which there are, and what makes each."""

from collections.abc import Mapping
from typing import Any

from experiments.common.records import Experiment, PlannedRun
from experiments.method.equations import IdentitiesConfig, run_identities
from experiments.method.implementation import ImplementationConfig, run_implementation
from experiments.method.step_cost import StepCostConfig, run_step_cost

EXPERIMENTS = {
    "identities": Experiment(IdentitiesConfig, run_identities),
    "implementation": Experiment(ImplementationConfig, run_implementation),
    "step_cost": Experiment(StepCostConfig, run_step_cost, alone=True),
}
LEAST_TIMINGS = 5  # of the steps, whose times scatter: what the ledger asks for


def notebook_runs(parameters: Mapping[str, Any], data: str = "") -> list[PlannedRun]:
    """List the runs of notebook 1, of seeds from 0 on; steps are timed with five nets at least."""
    seeds = parameters["seeds"]
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}: at least one run of each kind is needed.")
    return [
        PlannedRun(f"{name.replace('_', ' ')}, seed {seed}", experiment.config(seed=seed))
        for name, experiment in EXPERIMENTS.items()
        for seed in range(max(seeds, LEAST_TIMINGS) if experiment.alone else seeds)
    ]
