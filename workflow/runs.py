"""The training runs behind the notebooks, as the same functions list them that the notebooks call.

A notebook makes by itself what it needs and does not find. The workflow makes each run beforehand,
as a job of its own, so that the notebooks find all.
"""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common.records import Config

Parameters = dict[str, Any]


class Run(NamedTuple):
    """A run, and for what it is."""

    label: str  # for the reader
    config: Config
    folder: str = "records"  # of the results
    weights: bool = False  # whether the notebook draws pictures of the trained net
    notebook: str = ""  # that needs it first

    @property
    def name(self) -> str:
        """The record's name: experiment and key."""
        return f"{self.config.experiment}-{self.config.key}"

    @property
    def file(self) -> str:
        """The record's place in the results."""
        return f"{self.folder}/{self.name}.json"


def runs_of(notebooks: dict[str, Parameters], fingerprint: str = "") -> list[Run]:
    """List every run that some notebooks need, once.

    Args:
        notebooks: All parameters, by the notebook's name; one that makes no runs is fine.
        fingerprint: Of the packed frames; "" while there are none.
    """
    found: dict[str, Run] = {}
    for notebook, parameters in notebooks.items():
        for run in LISTS.get(notebook, lambda *_: ())(parameters, fingerprint):
            found.setdefault(run.file, run._replace(notebook=notebook))
    return list(found.values())


def of_method(parameters: Parameters, _: str) -> Iterator[Run]:
    """List the runs of notebook 1."""
    from experiments.method.runs import notebook_runs

    for run in notebook_runs(parameters):
        yield Run(*run)


def of_toy(parameters: Parameters, _: str) -> Iterator[Run]:
    """List the runs of notebook 2: those of the figures, then those of the maps."""
    from experiments.toy.runs import notebook_runs

    for run in notebook_runs(parameters):
        yield Run(*run)


def of_depth(parameters: Parameters, fingerprint: str) -> Iterator[Run]:
    """List the runs of notebook 3."""
    from experiments.depth.plan import depth_runs

    runs = _call(depth_runs, {**parameters, "data": fingerprint})
    for run in runs:
        label = f"depth, {run.method}, 1/{run.every}, seed {run.config.seed}"
        shown = run.shown and run.every == parameters["label_every"][0]
        yield Run(label, run.config, weights=shown)


def of_ablation(parameters: Parameters, _: str) -> Iterator[Run]:
    """List the runs of notebook 4."""
    from experiments.ablation.sample import sample_runs

    tuning = Path(parameters["study"]) / "ablation_tuning"
    for config in _call(sample_runs, {**parameters, "tuning": tuning}):
        label = f"ablation, {config.domain}, {config.ingredient}, {config.name}"
        yield Run(f"{label}, {config.setting.labels} labels", config)


LISTS: dict[str, Callable[[Parameters, str], Iterator[Run]]] = {
    "01_method": of_method,
    "02_toy_analysis": of_toy,
    "03_depth_experiments": of_depth,
    "04_ablation": of_ablation,
}


def _call(function: Callable, parameters: Parameters) -> Any:
    """Call a function with those of a notebook's parameters that it takes."""
    taken = inspect.signature(function).parameters
    return function(**{name: value for name, value in parameters.items() if name in taken})
