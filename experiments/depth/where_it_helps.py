"""Where UBN would help: its gain by labeled batch and by places with labels; and the reason.

The reason is the gap between the statistics of labeled and unlabeled images, layer by layer: where
there is none, unlabeled images can tell a normalization layer nothing new.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common.records import Record, check_rates, side_by_side
from experiments.common.stats import interval
from experiments.common.style import FAINT, look

GAP_BATCH = 8  # labeled images a step, of the nets whose gaps are shown
SPREAD, FEW_PLACES = "labels from all places", "labels from few places"


def gains_of_map(records: pd.DataFrame, domain: str, few: int) -> pd.DataFrame:
    """Return UBN's gain over BN, paired by seed, for each labeled batch and kind of labels.

    Records are those of `read_records`, labels one depth map in `few`. Columns: `labels`,
    `labeled_batch`, `seeds`, BN's accuracy `bn`, and `gain` with its 95 % interval `low`, `high`,
    NaN below three seeds.

    Raises:
        ValueError: There are several runs of one seed, or at several learning rates.
    """
    needed = ["experiment", "domain", "arm", "labels.kind", "labels.k", "labeled_batch", "seed"]
    records = records.reindex(columns=[*needed, "learning_rate", "delta1"])
    runs = records[
        (records["experiment"] == "depth")
        & (records["domain"] == domain)
        & (records["labels.k"] == few)
        & records["arm"].isin(["BN", "UBN"])
    ]
    labels = np.where(runs["labels.kind"] == "places", FEW_PLACES, SPREAD)
    runs = runs.assign(labels=labels)
    by = ["labels", "labeled_batch"]
    check_rates(runs, [*by, "arm"])
    wide = side_by_side(runs, [*by, "seed"], "arm", "delta1")
    rows = []
    for (kind, batch), pairs in wide.reindex(columns=["BN", "UBN"]).dropna().groupby(level=by):
        difference = (pairs["UBN"] - pairs["BN"]).to_numpy()
        low, high = interval(difference)
        bn = pairs["BN"].mean()
        rows.append([kind, int(batch), len(difference), bn, difference.mean(), low, high])
    columns = [*by, "seeds", "bn", "gain", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def gaps_of_map(records: list[Record], domain: str, few: int) -> pd.DataFrame:
    """Return the gap of labeled and unlabeled statistics of BN's nets: `labels`, `layer`, `gap`.

    Of nets with one labeled batch, since smaller ones have noisier statistics and larger gaps.

    It is the last of each run's curves, in units of variance (`ubnlib.statistics_gap`), the median
    over runs, layers in their order.
    """
    rows = []
    for record in records:
        config = record.config
        if (config.get("domain"), config.get("arm")) != (domain, "BN"):
            continue
        if (config["labels"]["k"], config["labeled_batch"]) != (few, GAP_BATCH):
            continue
        kind = FEW_PLACES if config["labels"]["kind"] == "places" else SPREAD
        for name, values in record.curves.items():
            gap, _, layer = name.partition("/")
            if gap == "unlabeled" and layer:
                rows.append([kind, layer, values[0][-1]])
    table = pd.DataFrame(rows, columns=["labels", "layer", "gap"])
    return table.groupby(["labels", "layer"], sort=False)["gap"].median().reset_index()


def draw(gains: pd.DataFrame, gaps: pd.DataFrame, domain: str) -> Figure:
    """Draw the gains by labeled batch, and the gaps of statistics by layer."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.5), width_ratios=[1, 1.25])
    batches = sorted(gains["labeled_batch"].unique())
    left.axhline(0, color=FAINT, linewidth=1, zorder=0)
    for shift, (kind, rows) in zip((-0.08, 0.08), gains.groupby("labels"), strict=False):
        color, marker, _ = look(kind)
        x = [batches.index(batch) + shift for batch in rows["labeled_batch"]]
        error = [rows["gain"] - rows["low"], rows["high"] - rows["gain"]]
        left.errorbar(x, rows["gain"], error, fmt=marker, color=color, capsize=3, label=kind)
    left.set_xticks(range(len(batches)), batches)
    left.set(xlabel="labeled images a step", ylabel="accuracy, UBN \N{MINUS SIGN} BN", title=domain)
    layers = list(dict.fromkeys(gaps["layer"]))
    for kind, rows in gaps.groupby("labels"):
        right.plot([layers.index(n) for n in rows["layer"]], rows["gap"], **look(kind).line)
    right.set_xticks(range(len(layers)), layers, rotation=90)
    right.set_yscale("log")
    right.set(
        xlabel="layer", ylabel="gap of labeled and unlabeled\nstatistics, BN's nets [variances]"
    )
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    told = [
        f"{r.labels}, batch {r.labeled_batch}: {r.gain:+.3f} [{r.low:+.3f}, {r.high:+.3f}]"
        for r in gains.itertuples()
    ]
    figure.set_label(
        f"On {domain}, left: UBN's accuracy minus BN's by labeled images a step, mean and 95 % "
        f"interval: {'; '.join(told)}. Right: how far the statistics of labeled images are from "
        "those of unlabeled ones, layer by layer, in units of variance, at "
        f"{GAP_BATCH} labeled images a step."
    )
    return figure
