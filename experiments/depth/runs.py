"""The depth runs: those of notebook 3, and the stages of the study behind it.

The study asks which reading of UBN trains a depth net, and which form of it beats BN. Its design is
fractional: one factor at a time around a base setting, and the readings that matter across all of
them. `docs/depth_study.md` has the plan, and what came out; `python -m experiments.run depth.STAGE`
makes its records, and `find`, `metrics_of` and `compare` read them.
"""

import argparse
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments.common.parallel import obtain_all
from experiments.common.records import Experiment, PlannedRun, Record, Run, read_record
from experiments.common.stats import interval
from experiments.common.training import BNConfig
from experiments.depth.config import DepthConfig, NormConfig, UBNForm
from experiments.depth.data import CLAIMS, INDOOR, SEARCH, DepthData, EveryLabels, study_drives
from experiments.depth.engine import EngineConfig
from experiments.depth.literal_failure import CancellationConfig, run_cancellation
from experiments.depth.rgbd import RgbdFrames, split_by_time
from experiments.depth.train import run_depth

EXPERIMENTS = {
    "depth": Experiment(DepthConfig, run_depth, frames=True),
    "cancellation": Experiment(CancellationConfig, run_cancellation, frames=True),
}

# --- what is compared -----------------------------------------------------------------------------

READINGS: dict[str, NormConfig] = {
    "BN": BNConfig(),
    "corrected": UBNForm(),
    "none (literal)": UBNForm(stats_grad="none"),
    "labeled": UBNForm(stats_grad="labeled"),
    "all": UBNForm(stats_grad="all"),
    "averages 0.1": UBNForm(stats_grad="none", source="running", momentum=0.1),
    "averages 0.01": UBNForm(stats_grad="none", source="running", momentum=0.01),
    "averages 0.001": UBNForm(stats_grad="none", source="running", momentum=0.001),
    "corrected, gap 0.1": UBNForm(gap_weight=0.1),
    "corrected, gap 1": UBNForm(gap_weight=1),
    "labeled, gap 1": UBNForm(stats_grad="labeled", gap_weight=1),
    "all, gap 0.1": UBNForm(stats_grad="all", gap_weight=0.1, gap_gradient="both"),
    "all, gap 1": UBNForm(stats_grad="all", gap_weight=1, gap_gradient="both"),
    "all, gap 10": UBNForm(stats_grad="all", gap_weight=10, gap_gradient="both"),
    "averages 0.01, gap 1": UBNForm(
        stats_grad="corrected", source="running", momentum=0.01, gap_weight=1
    ),
}
EVERYWHERE = ("BN", "corrected", "none (literal)", "averages 0.01", "all, gap 1")

# The literal reading with parts of its gradient taken out, which the next collection cancels.
REPAIRS: dict[str, NormConfig] = {
    "literal": READINGS["none (literal)"],
    "literal, no common shift": UBNForm(stats_grad="none", repair="shift"),
    "literal, no common scale": UBNForm(stats_grad="none", repair="scale"),
    "literal, neither": UBNForm(stats_grad="none", repair="both"),
}

METHODS: dict[str, NormConfig] = {
    "BN": BNConfig(),
    "UBN": UBNForm(),
    "UBN, swapped": UBNForm(unlabeled_weight=1.0),  # the unlabeled rows' statistics alone
}
TUNED_BN = "BN, tuned"
LITERAL = "UBN, literal"  # the paper's two steps as the text has them
FIGURE_6: dict[str, NormConfig] = {**METHODS, LITERAL: REPAIRS["literal"]}

# --- the runs of notebook 3 -----------------------------------------------------------------------


class DepthRun(NamedTuple):
    """A run of Figure 6: which method, with one depth map in `every`."""

    method: str
    every: int
    config: DepthConfig

    @property
    def shown(self) -> bool:
        """Whether pictures are made of this run's net: of each method's first seed."""
        return self.config.seed == 0


def depth_runs(
    data: str,
    *,
    label_every: Sequence[int],  # keep one depth map in so many
    batch: Sequence[int],  # labeled and unlabeled images a step
    steps: int,
    learning_rate: float,
    seeds: int,
    net: Mapping[str, Any],  # width and levels of DispNet
    engine: Mapping[str, Any],
) -> list[DepthRun]:
    """Return the runs of every method and label share; the literal text's only at the first."""
    labeled, unlabeled = batch
    shared = dict(
        data=data,
        labeled_batch=labeled,
        unlabeled_batch=unlabeled,
        steps=steps,
        learning_rate=learning_rate,
        engine=engine,
        **net,
    )
    return [
        DepthRun(method, k, DepthConfig(norm=norm, labels=EveryLabels(k=k), seed=seed, **shared))
        for method, norm in FIGURE_6.items()
        for k in label_every
        for seed in range(seeds)
        if method != LITERAL or k == label_every[0]
    ]


def notebook_runs(parameters: Mapping[str, Any], data: str = "") -> list[PlannedRun]:
    """Return all runs of notebook 3 with these parameters, on the frames of a fingerprint."""
    names = ("label_every", "batch", "steps", "learning_rate", "seeds", "net", "engine")
    return [
        PlannedRun(
            f"depth, {run.method}, 1/{run.every}, seed {run.config.seed}",
            run.config,
            weights=run.shown and run.every == parameters["label_every"][0],
        )
        for run in depth_runs(data, **{name: parameters[name] for name in names})
    ]


# --- the design of the study ----------------------------------------------------------------------

Setting = Mapping[str, Any]  # labels (one in so many), labeled_batch, per_labeled, learning_rate
BASE: Setting = dict(labels=32, labeled_batch=8, per_labeled=1, learning_rate=1e-3)
# What the search chose. All methods of Figure 6 share a setting, which is also the best of the
# forms of UBN; the best BN has ghost batches besides (Hoffer et al. 2017): 8 labeled images a step
# in two halves, each normalized by itself.
CHOSEN: Setting = dict(labels=128, labeled_batch=4, per_labeled=1, learning_rate=3e-3)
STEPS = 250
LONGER = 600  # steps of the runs that ask whether labels become scarce with more training
FRACTIONS = (128, 64, 32, 16, 8, 4, 2, 1)
CLAIMED = (128, 32)  # shares with ten seeds
INDOOR_FRACTIONS = (64, 16)
SCREENING_SEEDS, SEARCH_SEEDS = (1000, 1001, 1002), (1010, 1011, 1012, 1013)


def configured(
    norm: NormConfig, setting: Setting, data: str, seed: int, **options: Any
) -> DepthConfig:
    """Return a run of the study: a small DispNet, sized for a CPU; options are further fields."""
    labeled = setting["labeled_batch"]
    # BN's configuration does not depend on what it never sees: equal runs are made once.
    unlabeled = labeled * setting["per_labeled"] if norm.kind == "ubn" else labeled
    small = dict(width=0.25, levels=4, steps=200, evaluations=2, engine=EngineConfig(passes="two"))
    return DepthConfig(
        data=data,
        norm=norm,
        labels=EveryLabels(k=setting["labels"]),
        labeled_batch=labeled,
        unlabeled_batch=unlabeled,
        learning_rate=setting["learning_rate"],
        seed=seed,
        **small | options,
    )


def screening() -> list[tuple[str, Setting]]:
    """Return the cells of the screening: a reading and a setting each."""
    cells = [(name, BASE) for name in READINGS]
    changes = [dict(labeled_batch=2), dict(labeled_batch=32), dict(per_labeled=3)]
    changes += [dict(per_labeled=7), dict(learning_rate=2e-4), dict(labels=128), dict(labels=8)]
    for change in changes:
        # BN does not see unlabeled images, so that their number changes nothing.
        names = EVERYWHERE[1:] if "per_labeled" in change else EVERYWHERE
        cells += [(name, {**BASE, **change}) for name in names]
    return cells


def measured(reading: str, data: str, seed: int) -> CancellationConfig:
    """Return a run of a repair, or of a reading, whose steps are measured on the way."""
    run = configured({**READINGS, **REPAIRS}[reading], BASE, data, seed)
    options = run.model_dump(exclude={"experiment", "evaluations"})
    return CancellationConfig(**options, evaluations=10)


def search(data: str, seed: int) -> dict[str, DepthConfig]:
    """Return the search's runs of one seed, by name: as many settings of BN as forms of UBN."""
    base = {**CHOSEN, "labeled_batch": 8}

    def cell(norm: NormConfig, ghosts: int = 1, decay: float = 0.0, **change: Any) -> DepthConfig:
        engine = EngineConfig(passes="two", accumulate=ghosts)
        options = dict(steps=STEPS, engine=engine, weight_decay=decay)
        return configured(norm, {**base, **change}, data, seed, **options)

    swapped, joint = METHODS["UBN, swapped"], UBNForm(stats_grad="all")
    first_half = swapped.model_copy(update={"where": "first half"})
    return {
        "BN": cell(BNConfig()),
        "BN, rate 1e-3": cell(BNConfig(), learning_rate=1e-3),
        "BN, rate 6e-3": cell(BNConfig(), learning_rate=6e-3),
        "BN, rate 1e-2": cell(BNConfig(), learning_rate=1e-2),
        "BN, batch 4": cell(BNConfig(), labeled_batch=4),
        "BN, batch 16": cell(BNConfig(), labeled_batch=16),
        "BN, ghosts of 4": cell(BNConfig(), ghosts=2),
        "BN, ghosts of 2": cell(BNConfig(), ghosts=4),
        "BN, batch 4, ghosts of 2": cell(BNConfig(), ghosts=2, labeled_batch=4),
        "BN, decay 0.1": cell(BNConfig(), decay=0.1),
        "BN, decay 1": cell(BNConfig(), decay=1.0),
        "BN, momentum 0.03": cell(BNConfig(momentum=0.03)),
        "BN, momentum 0.3": cell(BNConfig(momentum=0.3)),
        "UBN": cell(UBNForm()),
        "UBN, 3 unlabeled": cell(UBNForm(), per_labeled=3),
        "UBN, weight 0.25": cell(UBNForm(unlabeled_weight=0.25)),
        "UBN, ghosts of 4": cell(UBNForm(), ghosts=2),
        "UBN, batch 4": cell(UBNForm(), labeled_batch=4),
        "UBN, swapped": cell(swapped),
        "UBN, swapped, ghosts of 4": cell(swapped, ghosts=2),
        "UBN, swapped, batch 4": cell(swapped, labeled_batch=4),
        "UBN, swapped in the first half": cell(first_half),
        "UBN, swapped in the first half, batch 4": cell(first_half, labeled_batch=4),
        "UBN, swapped, gap 0.1": cell(swapped.model_copy(update={"gap_weight": 0.1})),
        "UBN, all": cell(joint),
        "UBN, all, gap 0.1": cell(UBNForm(stats_grad="all", gap_weight=0.1, gap_gradient="both")),
        "UBN, all, swapped": cell(joint.model_copy(update={"unlabeled_weight": 1.0})),
    }


def claimed(
    method: str, labels: int, data: str, seed: int, *, steps: int = STEPS, indoor: bool = False
) -> DepthConfig:
    """Return a run that a claim rests on: of one of `FIGURE_6`, or of `TUNED_BN`."""
    options: dict[str, Any] = dict(steps=steps, evaluations=4) | (INDOOR if indoor else {})
    setting = {**CHOSEN, "labels": labels}
    if method == TUNED_BN:
        setting["labeled_batch"] = 8
        options["engine"] = EngineConfig(passes="two", accumulate=2)
    norm = BNConfig() if method == TUNED_BN else FIGURE_6[method]
    return configured(norm, setting, data, seed, **options)


# --- the stages of the study ----------------------------------------------------------------------


def plan_screening(data: str) -> list[DepthConfig]:
    """Plan all readings around one setting, and some of them in others; and the repairs."""
    forms = {**READINGS, **REPAIRS}
    cells = screening() + [(name, BASE) for name in REPAIRS]
    return [configured(forms[n], setting, data, s) for s in SCREENING_SEEDS for n, setting in cells]


def plan_failure(data: str) -> list[DepthConfig]:
    """Plan the runs whose steps are measured."""
    return [measured(name, data, SCREENING_SEEDS[0]) for name in (*REPAIRS, "corrected")]


def plan_search(data: str) -> list[DepthConfig]:
    """Plan the search for a better form, and for a better BN."""
    return [config for seed in SEARCH_SEEDS for config in search(data, seed).values()]


def plan_claims(data: str) -> list[DepthConfig]:
    """Plan Figure 6 and the claims: ten seeds at two shares, five at the others."""
    cells = [(m, k, s) for s in range(10) for k in CLAIMED for m in (*METHODS, TUNED_BN)]
    cells += [(LITERAL, FRACTIONS[0], s) for s in range(5)]
    others = [k for k in FRACTIONS if k not in CLAIMED]
    cells += [(m, k, s) for s in range(5) for k in others for m in ("BN", "UBN")]
    return [claimed(method, k, data, seed) for method, k, seed in cells]


def plan_longer(data: str) -> list[DepthConfig]:
    """Plan longer training with the fewest labels."""
    return [claimed(m, FRACTIONS[0], data, s, steps=LONGER) for s in range(5) for m in METHODS]


def plan_indoor(data: str) -> list[DepthConfig]:
    """Plan the runs on a folder of RGB-D frames."""
    cells = [(m, k, s) for s in range(5) for k in INDOOR_FRACTIONS for m in METHODS]
    return [claimed(method, k, data, seed, indoor=True) for method, k, seed in cells]


def make_stage(
    arguments: argparse.Namespace,
    plan: Callable[[str], list[DepthConfig]],  # the runs, by the fingerprint of their frames
    folder: str,
    drives: int | None,  # None for a folder of RGB-D frames
    run: Run,
) -> None:
    """Make a stage's records; a stopped stage goes on where it was."""
    if drives is not None:
        data = study_drives(arguments.data, drives)
    elif arguments.rgbd_root is not None:
        frames = RgbdFrames(arguments.rgbd_root)
        data = DepthData(frames, *split_by_time(frames.keys))
    else:
        raise ValueError("The indoor stage needs a folder: --rgbd-root (docs/rgbd.md).")
    obtain_all(
        plan(data.fingerprint),
        functools.partial(run, data=data),
        arguments.results / folder,
        processes=arguments.processes,
        progress=folder,
    )


# Notebook 3 finds the claims among its own records; the other stages have folders of their own.
STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    name: functools.partial(make_stage, plan=plan, folder=folder, drives=drives, run=run)
    for name, plan, folder, drives, run in (
        ("screening", plan_screening, "depth_screening", SEARCH, run_depth),
        ("failure", plan_failure, "depth_failure", SEARCH, run_cancellation),
        ("search", plan_search, "depth_search", SEARCH, run_depth),
        ("claims", plan_claims, "records", CLAIMS, run_depth),
        ("longer", plan_longer, "depth_longer", CLAIMS, run_depth),
        ("indoor", plan_indoor, "depth_indoor", None, run_depth),
    )
}

# --- the study's records --------------------------------------------------------------------------


def find(folder: Path | str, plan: Mapping[str, DepthConfig]) -> dict[str, list[Record]]:
    """Return the records of planned runs by the plan's names, whatever their data, by seed."""
    names = {_setting_of(config.model_dump(mode="json")): name for name, config in plan.items()}
    found: dict[str, list[Record]] = {name: [] for name in plan}
    for path in sorted(Path(folder).glob("*.json")):
        record = read_record(path)
        if name := names.get(_setting_of(record.config)):
            found[name].append(record)
    return {name: sorted(some, key=lambda record: record.seeds) for name, some in found.items()}


def _setting_of(config: Mapping[str, Any]) -> str:
    return json.dumps({**config, "data": None, "seed": None}, sort_keys=True)


def metrics_of(found: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """Return the metrics of what `find` found, one row a run, with `cell` and `seed`."""
    return pd.DataFrame(
        {"cell": name, "seed": record.seeds[0]} | {k: v[0] for k, v in record.metrics.items()}
        for name, records in found.items()
        for record in records
    )


def compare(table: pd.DataFrame, baselines: Mapping[str, str]) -> pd.DataFrame:
    """Return how far cells of `metrics_of` are ahead of their baselines in test accuracy.

    Returns:
        One row a cell: `cell`, `seeds`, its mean accuracies `test`, `labeled` and `unlabeled`, the
        `baseline`'s test accuracy, and the `difference`, paired by seed, with its 95 % interval,
        `low` and `high`.
    """
    by_cell = {cell: rows.set_index("seed") for cell, rows in table.groupby("cell")}
    rows = []
    for cell, baseline in baselines.items():
        ours, theirs = by_cell[cell], by_cell[baseline]
        difference = (ours["delta1"] - theirs["delta1"]).dropna().to_numpy()
        means = ours[["delta1", "labeled_delta1", "unlabeled_delta1"]].mean()
        low, high = interval(difference)
        row = [cell, len(difference), *means, theirs["delta1"].mean(), difference.mean()]
        rows.append([*row, low, high])
    names = ["cell", "seeds", "test", "labeled", "unlabeled", "baseline", "difference"]
    return pd.DataFrame(rows, columns=[*names, "low", "high"])
