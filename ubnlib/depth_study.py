"""Which reading of UBN trains a depth net, and which form of it beats BN: the runs of the study.

The design is fractional: one factor at a time around a base setting, and the readings that matter
across all of them. `docs/depth_study.md` has the plan, and what came out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ubnlib.claims import interval
from ubnlib.depth_config import DepthConfig
from ubnlib.depth_data import EveryLabels
from ubnlib.engine import EngineConfig
from ubnlib.forms import NormConfig, UBNForm
from ubnlib.training import BNConfig

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

Setting = Mapping[str, Any]  # labels (one in so many), labeled_batch, per_labeled, learning_rate
BASE: Setting = dict(labels=32, labeled_batch=8, per_labeled=1, learning_rate=1e-3)


def screening() -> list[tuple[str, Setting]]:
    """Return the cells of the screening: a reading and a setting each."""
    cells = [(name, BASE) for name in READINGS]
    for change in (
        dict(labeled_batch=2),
        dict(labeled_batch=32),
        dict(per_labeled=3),
        dict(per_labeled=7),
        dict(learning_rate=2e-4),
        dict(labels=128),
        dict(labels=8),
    ):
        # BN does not see unlabeled images, so that their number changes nothing.
        names = EVERYWHERE[1:] if "per_labeled" in change else EVERYWHERE
        cells += [(name, {**BASE, **change}) for name in names]
    return cells


# What the search on the search set chose: the same setting was best for BN and for UBN.
CHOSEN: Setting = dict(labels=128, labeled_batch=4, per_labeled=1, learning_rate=3e-3)
STEPS = 250
METHODS: dict[str, NormConfig] = {
    "BN": BNConfig(),
    "UBN": UBNForm(),
    "UBN, swapped": UBNForm(unlabeled_weight=1.0),  # the unlabeled rows' statistics alone
}
FRACTIONS = (128, 64, 32, 16, 8, 4, 2, 1)
# Of the indoor sequence: the paper's range of depth begins behind most of a room.
INDOOR = dict(scale=2.0, min_disparity=0.1)


def search(data: str, seed: int) -> dict[str, DepthConfig]:
    """Return the search's runs of one seed, by name: as many settings of BN as forms of UBN."""
    base = {**CHOSEN, "labeled_batch": 8}

    def cell(norm: NormConfig, ghosts: int = 1, decay: float = 0.0, **change: Any) -> DepthConfig:
        engine = EngineConfig(passes="two", accumulate=ghosts)
        options = dict(steps=STEPS, engine=engine, weight_decay=decay)
        return configured(norm, {**base, **change}, data, seed, **options)

    swapped, joint = METHODS["UBN, swapped"], UBNForm(stats_grad="all")
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
        "UBN, swapped": cell(swapped),
        "UBN, swapped, ghosts of 4": cell(swapped, ghosts=2),
        "UBN, swapped, batch 4": cell(swapped, labeled_batch=4),
        "UBN, swapped in the first half": cell(swapped.model_copy(update={"where": "first half"})),
        "UBN, swapped, gap 0.1": cell(swapped.model_copy(update={"gap_weight": 0.1})),
        "UBN, all": cell(joint),
        "UBN, all, gap 0.1": cell(UBNForm(stats_grad="all", gap_weight=0.1, gap_gradient="both")),
        "UBN, all, swapped": cell(joint.model_copy(update={"unlabeled_weight": 1.0})),
    }


def claimed(method: str, labels: int, data: str, seed: int, *, indoor: bool = False) -> DepthConfig:
    """Return a run that a claim rests on: at the chosen setting, the same for all methods."""
    options = dict(steps=STEPS, evaluations=4) | (INDOOR if indoor else {})
    return configured(METHODS[method], {**CHOSEN, "labels": labels}, data, seed, **options)


def configured(
    norm: NormConfig, setting: Setting, data: str, seed: int, **options: Any
) -> DepthConfig:
    """Return a run of the study: a small DispNet, sized for a CPU.

    Args:
        norm: The reading.
        setting: As `BASE`.
        data: Fingerprint of the frames.
        seed: Of weights and batches.
        **options: Other fields of `DepthConfig`.
    """
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


def compare(
    table: pd.DataFrame,
    cells: Sequence[tuple[str, str, str]],
    metric: str = "delta1",
    baseline_metric: str | None = None,
) -> pd.DataFrame:
    """Return each cell's paired difference from its baseline, with a bootstrap interval.

    Args:
        table: One row a run, with `cell`, `seed` and the metric.
        cells: Names of a cell, of its baseline, and of the reading to show.
        metric: Column compared.
        baseline_metric: The baseline's column; the same by default.

    Returns:
        Columns `reading`, `cell`, `seeds`, `mean`, `baseline`, `difference`, `low`, `high`.
    """
    by_cell = {cell: rows.set_index("seed") for cell, rows in table.groupby("cell")}
    rows = []
    for cell, base, reading in cells:
        ours, theirs = by_cell[cell][metric], by_cell[base][baseline_metric or metric]
        pairs = (ours - theirs).dropna()
        low, high = interval(pairs.to_numpy())
        rows.append(
            [reading, cell, len(pairs), ours.mean(), theirs.mean(), pairs.mean(), low, high]
        )
    columns = ["reading", "cell", "seeds", "mean", "baseline", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)
