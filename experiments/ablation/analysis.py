"""What the ablation's records say: differences, intervals, corrected tests, effect sizes."""

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, ttest_1samp

from experiments.ablation.runs import BASE, DEFAULT, LABELS, PLAIN, REFRESHED, ingredients
from experiments.common.stats import interval

CLEAR = 0.05  # a corrected p below it is a clear difference
NOTHING = 0.001  # smaller differences are none, however sure
OF_USE = 0.02  # a clear difference of at least so much accuracy is of use

# With what the runs of an ingredient are compared; all others with UBN's defaults.
BASELINES = {"peers": ("peers", PLAIN)}
ORDER = list(BASE)
TABLES = ("peers", "ingredients", "bias and noise")  # of the study's page
MARKS = {"ahead": "**", "behind": "**", "a little ahead": "*", "a little behind": "*"}
PAIRED = ("difference", "low", "high", "p", "effect size", "seeds")


def compare(runs: pd.DataFrame) -> pd.DataFrame:
    """Compare the runs of every ingredient with its baseline, paired by seed.

    `runs` are claims as `experiments.common.records.read_records` returns them. The table has one
    row for each domain, number of labels, ingredient and name that has a baseline, in the order of
    the domains: the mean `accuracy` and `refreshed` accuracy, the `difference` to the baseline, its
    95 % interval `low` and `high`, the paired t-test's `p`, corrected over all comparisons of the
    domain (Benjamini and Hochberg), the `effect` (mean over standard deviation of the differences),
    `seeds`, and `says`: see `says`. Baselines have neither p nor effect.
    """
    rows = []
    refreshed = runs["name"] == REFRESHED
    accuracy = runs["accuracy"].mask(refreshed, runs["refreshed_accuracy"])
    runs = _in_order(runs.assign(accuracy=accuracy))
    for (domain, labels), some in runs.groupby(["domain", "setting.labels"], sort=False):
        cells = {cell: one.set_index("seed") for cell, one in some.groupby(["ingredient", "name"])}
        for (ingredient, name), one in cells.items():
            baseline = BASELINES.get(ingredient, ("baselines", DEFAULT))
            if baseline not in cells:  # a study that was stopped
                continue
            row = [domain, labels, ingredient, name]
            row += [one["accuracy"].mean(), one["refreshed_accuracy"].mean()]
            theirs = cells[baseline]["accuracy"]
            rows.append([*row, *_paired(one["accuracy"] - theirs, baseline == (ingredient, name))])
    names = ["domain", "labels", "ingredient", "name", "accuracy", "refreshed", *PAIRED]
    table = pd.DataFrame(rows, columns=names).rename(columns={"effect size": "effect"})
    if table.empty:
        return table.assign(says=[])
    for _, some in table.groupby("domain"):
        tested = some["p"].dropna()
        if len(tested):
            table.loc[tested.index, "p"] = false_discovery_control(tested)
    table["says"] = [says(*row) for row in table[["difference", "p"]].itertuples(index=False)]
    return table


def _in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs by domain and number of labels, otherwise as they were."""
    runs = runs.reset_index(drop=True)
    place = {"domain": runs["domain"].map(ORDER.index), "labels": runs["setting.labels"]}
    return runs.loc[pd.DataFrame(place).sort_values(["domain", "labels"], kind="stable").index]


def _paired(difference: pd.Series, is_baseline: bool) -> list[float]:
    """Return the mean, interval, p, effect and number of paired differences."""
    values = difference.dropna().to_numpy(float)
    if is_baseline:
        return [0.0, np.nan, np.nan, np.nan, np.nan, len(values)]
    low, high = interval(values)
    spread = values.std(ddof=1) if len(values) > 1 else np.nan
    if len(values) < 2:
        p, effect = np.nan, np.nan
    elif spread < 1e-12:  # the same in every seed: certain, or no difference at all
        p, effect = float(abs(values[0]) < 1e-12), np.nan
    else:
        p, effect = float(ttest_1samp(values, 0).pvalue), values.mean() / spread
    return [values.mean() if len(values) else np.nan, low, high, p, effect, len(values)]


def says(difference: float, p: float) -> str:
    """Put a difference and its corrected p in words.

    "ahead" or "behind", "a little ..." where it is not of use, "level" where it is nothing, and
    "open" where it is not clear.
    """
    if not p < CLEAR:
        return "open"
    if abs(difference) < NOTHING:
        return "level"
    side = "ahead" if difference > 0 else "behind"
    return side if abs(difference) >= OF_USE else f"a little {side}"


def bias_and_noise(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what removing bias and adding noise do to accuracy, from the 2x2 design.

    One row for each domain, number of labels and effect, with `difference`, `low`, `high`, `p` (not
    corrected: three questions, asked for themselves), `effect size` and `seeds`: "less bias" is
    unbiased minus biased, "more noise" is a batch minus all rows, each a mean over the other
    factor, and "interaction" how much more noise does without bias than with.
    """
    rows = []
    chosen = _in_order(runs[runs["ingredient"] == "bias and noise"])
    for (domain, labels), some in chosen.groupby(["domain", "setting.labels"], sort=False):
        cell = some.pivot(index="seed", columns="name", values="accuracy")
        if len(cell.columns) < 4:  # a study that was stopped
            continue
        noise_biased = cell["labeled, batch"] - cell["labeled, all"]
        noise_unbiased = cell["everything, batch"] - cell["everything, all"]
        batch = cell["everything, batch"] - cell["labeled, batch"]
        whole = cell["everything, all"] - cell["labeled, all"]
        for name, values in {
            "less bias": (batch + whole) / 2,
            "more noise": (noise_biased + noise_unbiased) / 2,
            "interaction": noise_unbiased - noise_biased,
        }.items():
            rows.append([domain, labels, name, *_paired(values, False)])
    return pd.DataFrame(rows, columns=["domain", "labels", "what", *PAIRED])


def work(runs: pd.DataFrame) -> pd.Series:
    """Return how many rows pass through the net in a step of a peer, a pass backward being two."""
    labeled, others = runs["setting.labeled_batch"], runs["setting.other_batch"]
    both = labeled + others
    passes = 3 * labeled
    ubn = runs["method.norm.kind"] == "ubn"
    passes = passes.mask(ubn, 3 * labeled + both)  # two steps, as run here
    if "method.norm.stats_grad" in runs:
        passes = passes.mask(runs["method.norm.stats_grad"] == "all", 3 * labeled + 3 * both)
    passes = passes.mask(runs["method.averages_see"], 3 * labeled + others)
    if "method.teacher.weight" in runs:
        passes = passes.mask(runs["method.teacher.weight"].notna(), 4 * both)
    return passes


def of_refreshing(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what statistics refreshed after training change in the accuracy of BN and UBN."""
    rows = []
    chosen = _in_order(runs[runs["ingredient"] == "baselines"])
    for (domain, labels, name), some in chosen.groupby(
        ["domain", "setting.labels", "name"], sort=False
    ):
        difference = some["refreshed_accuracy"] - some["accuracy"]
        rows.append([domain, labels, name, *_paired(difference, False)])
    return pd.DataFrame(rows, columns=["domain", "labels", "name", *PAIRED])


def in_markdown(runs: pd.DataFrame, what: str) -> str:
    """Write one of `TABLES` in points of accuracy, a column for each domain, at its fewest labels.

    Bold is clear and of use, italic clear; the first line of peers and of ingredients has what the
    others are compared with.
    """
    baseline, planned = None, ["less bias", "more noise", "interaction"]
    if what == "bias and noise":
        table = bias_and_noise(runs).assign(line=lambda t: t["what"], says="open")
    else:
        _, baseline = BASELINES.get(what, ("baselines", DEFAULT))
        table = compare(runs)  # corrected over all numbers of labels
        table = table[table["ingredient"].eq("peers") == (what == "peers")]
        pairs = zip(table["ingredient"], table["name"], strict=True)
        table = table.assign(line=[_named(*pair) for pair in pairs])
        planned = [_named(i, name) for i, some in ingredients("spiral").items() for name in some]
        planned = [baseline, PLAIN, *planned]
    table = table[table["labels"] == table["domain"].map(lambda domain: LABELS[domain][0])]
    if what == "peers":
        ranks = table.groupby("domain")["accuracy"].rank(ascending=False)
        planned += ranks.groupby(table["line"]).mean().sort_values(kind="stable").index.tolist()
    planned = [line for line in dict.fromkeys(planned) if line in set(table["line"])]
    cells = {}
    for row in table.itertuples():
        mark = MARKS.get(row.says, "")
        number = (
            f"{mark}{100 * row.difference:+.1f}{mark} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
        )
        cells[row.line, row.domain] = f"{row.accuracy:.3f}" if row.line == baseline else number
    domains = table["domain"].unique()
    lines = [f"| | {' | '.join(domains)} |", "|---" * (1 + len(domains)) + "|"]
    for line in planned:
        said = [f"{line}, accuracy" if line == baseline else line]
        lines.append(f"| {' | '.join(said + [cells.get((line, d), '-') for d in domains])} |")
    return "\n".join(lines)


def _named(ingredient: str, name: str) -> str:
    """Put an ingredient before the name of its variant, where that does not say it already."""
    said = ingredient in ("peers", "baselines") or name.startswith(ingredient)
    return name if said else f"{ingredient}: {name}"
