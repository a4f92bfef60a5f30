"""Making the depth runs: those of notebook 3, and those of the study behind Figure 6.

`python -m experiments.run depth.STAGE --domain rooms` makes a stage's records of a domain, as
`experiments.depth.study` plans them.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from experiments.common.parallel import obtain_all
from experiments.common.records import Config, Experiment, PlannedRun, Record
from experiments.common.style import apply_style, save
from experiments.depth.config import DepthConfig
from experiments.depth.constant_map import ConstantMapConfig, run_constant_map
from experiments.depth.data import DepthData
from experiments.depth.engine import EngineConfig, load_weights
from experiments.depth.evaluate import predict_frames
from experiments.depth.figure6_label_fraction import draw_predictions
from experiments.depth.literal_failure import CancellationConfig, run_cancellation
from experiments.depth.study import DOMAINS, STAGE_PLANS, constant_map, seeds_of, study_run
from experiments.depth.train import obtain_depth, run_depth, weights_path

EXPERIMENTS = {
    "depth": Experiment(DepthConfig, run_depth, frames=True),
    "constant_map": Experiment(ConstantMapConfig, run_constant_map, frames=True),
    "cancellation": Experiment(CancellationConfig, run_cancellation, frames=True),
}

# --- the study -----------------------------------------------------------------------------------


def run_any(config: Config, data: DepthData) -> Record:
    """Make a run of whichever experiment it is."""
    return EXPERIMENTS[config.experiment].run(config, data=data)


def make_stage(arguments: argparse.Namespace, stage: str) -> None:
    """Make a stage's records of a domain; a stopped stage goes on where it was."""
    where = DOMAINS[arguments.domain]
    precision = EngineConfig.fastest().precision
    slow = " (this processor has no bfloat16; claims ask for it)" * (precision == "fp32")
    for fold in range(where.folds):
        data = where.load(arguments, stage == "pilots", fold)
        which = f", fold {fold}" * (where.folds > 1)
        print(f"{arguments.domain}{which}: steps in {precision}{slow}", file=sys.stderr)
        planned = STAGE_PLANS[stage](arguments.domain, data.fingerprint)
        obtain_all(
            [config for config in planned if config.seed % where.folds == fold],
            functools.partial(run_any, data=data),
            arguments.results / ("depth_pilots" if stage == "pilots" else "records"),
            processes=arguments.processes,
            progress=f"{arguments.domain}, {stage}{which}",
        )


def make_pictures(arguments: argparse.Namespace) -> None:
    """Draw what nets of the claims predict on test frames; they are trained again for it."""
    apply_style()
    where, name = DOMAINS[arguments.domain], arguments.domain
    data, folder = where.load(arguments, False, 0), arguments.data / "pictures"
    some = data.test[np.linspace(0, len(data.test) - 1, 6).astype(int)[1:-1]]
    predictions = {}
    for arm, k in (("BN", None), ("UBN", None), ("BN", 1)):
        config = study_run(name, arm, data.fingerprint, where.first_seed, k)
        title = f"{arm}, {len(data.labeled(config.labels)[0]):,} labels"
        net = config.net()
        if not weights_path(config, folder).exists():
            obtain_depth(config, data, folder, weights=folder, progress=f"{name}, {title}")
        load_weights(net, weights_path(config, folder))
        maps = predict_frames(net, data.frames, some)
        predictions[title] = torch.stack([depth for _, depth in maps])
    frames = data.frames.batch(some)
    cap = 10.0 if where.options.get("min_disparity") else 80.0
    picture = draw_predictions(frames.images, frames.depth(), predictions, cap=cap)
    table = pd.DataFrame([data.frames.keys[i] for i in some])
    save(picture, f"03_predictions_{name}", table, arguments.results / "figures")


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    stage: functools.partial(make_stage, stage=stage) for stage in STAGE_PLANS
} | {"pictures": make_pictures}

# --- the runs of notebook 3 -----------------------------------------------------------------------


class DepthRun(NamedTuple):
    """A run of Figure 6: which method, with one depth map in `every`."""

    method: str
    every: int
    config: DepthConfig | ConstantMapConfig

    @property
    def shown(self) -> bool:
        """Whether pictures are made of this run's net: of each method's first seed."""
        first = DOMAINS[self.config.domain].first_seed
        return self.config.seed == first and self.config.experiment == "depth"


NOTEBOOK = ("BN", "UBN", "UBN, literal")  # arms that it trains, the last at the fewest labels only


def depth_runs(
    data: str,
    *,
    domain: str,
    label_every: Sequence[int],  # keep one depth map in so many
    batch: Sequence[int],  # labeled and unlabeled images a step
    steps: int,
    learning_rate: float,  # of all runs; 0: those of the domain
    seeds: int,
    net: Mapping[str, Any],  # width and levels of DispNet
    engine: Mapping[str, Any],
) -> list[DepthRun]:
    """Return the runs of every method and label share, and the maps that look at no image."""
    fields = dict(
        labeled_batch=batch[0],
        unlabeled_batch=batch[1],
        steps=steps,
        engine=EngineConfig(**engine),
        **net,
    )
    if learning_rate:
        fields["learning_rate"] = learning_rate
    cells = [(k, seed) for k in label_every for seed in seeds_of(domain, seeds)]
    runs = [DepthRun("constant map", k, constant_map(domain, data, s, k)) for k, s in cells]
    for arm in NOTEBOOK:
        for k, seed in cells:
            if arm != NOTEBOOK[-1] or k == label_every[0]:
                config = study_run(domain, arm, data, seed, k, **fields)
                runs.append(DepthRun(arm, k, config))
    return runs


def notebook_runs(parameters: Mapping[str, Any], data: str = "") -> list[PlannedRun]:
    """Return all runs of notebook 3 with these parameters, on the frames of a fingerprint."""
    names = ("domain", "label_every", "batch", "steps", "learning_rate", "seeds", "net", "engine")
    return [
        PlannedRun(
            f"depth, {run.method}, 1/{run.every}, seed {run.config.seed}",
            run.config,
            weights=run.shown and run.every == parameters["label_every"][0],
        )
        for run in depth_runs(data, **{name: parameters[name] for name in names})
    ]
