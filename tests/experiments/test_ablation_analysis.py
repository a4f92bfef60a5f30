"""The ablation's statistics against constructed tables, and its figures."""

import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.ablation import figures as ablation
from experiments.ablation import runs as plan
from experiments.ablation.analysis import bias_and_noise, compare, of_refreshing, says, work
from experiments.common.stats import interval

SEEDS = 6


def rows(ingredient, name, accuracy, *, domain="digits", labels=5, refreshed=None):
    accuracy = np.broadcast_to(accuracy, SEEDS)
    return pd.DataFrame(
        {
            "domain": domain,
            "setting.labels": labels,
            "ingredient": ingredient,
            "name": name,
            "seed": range(SEEDS),
            "accuracy": accuracy,
            "refreshed_accuracy": accuracy if refreshed is None else refreshed,
        }
    )


def noise(seed, scale=0.01):
    return scale * np.random.default_rng(seed).standard_normal(SEEDS)


def some_runs():
    base = 0.8 + noise(0)
    return pd.concat(
        [
            rows("baselines", "UBN", base, refreshed=base + 0.01 + noise(1, 1e-3)),
            rows("baselines", "BN", base - 0.05 + noise(2), refreshed=base),
            rows("gradient", "none", base - 0.4 + noise(3)),
            rows("gradient", "all", base + noise(4)),
            rows("peers", "BN", base + 0.03),
            rows("peers", "UBN", base + 0.035 + noise(5, 1e-3)),
            rows("peers", plan.REFRESHED, 0.0, refreshed=base + 0.06 + noise(6, 1e-3)),
        ],
        ignore_index=True,
    )


def test_differences_are_paired_by_seed_and_tested_as_a_family():
    runs = some_runs()
    found = compare(runs.sample(frac=1, random_state=1)).set_index(["ingredient", "name"])
    cells = {cell: one["accuracy"].to_numpy() for cell, one in runs.groupby(["ingredient", "name"])}
    cells["peers", plan.REFRESHED] = runs[runs["name"] == plan.REFRESHED][
        "refreshed_accuracy"
    ].to_numpy()
    raw = {}
    for cell, values in cells.items():
        baseline = ("peers", "BN") if cell[0] == "peers" else ("baselines", "UBN")
        difference = values - cells[baseline]
        if cell == baseline:
            assert found.loc[cell, "difference"] == 0 and np.isnan(found.loc[cell, "p"])
            continue
        mean, spread = difference.mean(), difference.std(ddof=1)
        t = mean / (spread / math.sqrt(SEEDS))
        raw[cell] = 2 * stats.t.sf(abs(t), SEEDS - 1)
        assert found.loc[cell, "difference"] == pytest.approx(mean)
        assert found.loc[cell, "effect"] == pytest.approx(mean / spread)
        assert tuple(found.loc[cell, ["low", "high"]]) == pytest.approx(interval(difference))
    # Benjamini and Hochberg by hand: the least of p_j * m / rank_j over j at or above one's rank.
    ordered = sorted(raw, key=raw.get)
    for place, cell in enumerate(ordered):
        bound = min(raw[c] * len(raw) / (k + 1) for k, c in enumerate(ordered) if k >= place)
        assert found.loc[cell, "p"] == pytest.approx(min(1.0, bound))
    assert found.loc[("gradient", "none"), "says"] == "behind"
    assert found.loc[("peers", "UBN"), "says"] == "a little ahead"
    assert found.loc[("peers", plan.REFRESHED), "says"] == "ahead"
    assert found.loc[("peers", "BN"), "says"] == "open"


def test_of_a_stopped_study_only_what_has_a_baseline_is_compared():
    runs = some_runs()
    left = runs[(runs["ingredient"] != "peers") | (runs["name"] != "BN")]
    assert set(compare(left)["ingredient"]) == {"baselines", "gradient"}
    one = rows("bias and noise", "labeled, batch", 0.5)
    assert bias_and_noise(one).empty


def test_domains_are_families_of_their_own_and_stand_in_order():
    runs = some_runs()
    other = runs.assign(domain="spiral", accuracy=runs["accuracy"] + noise(9)[runs["seed"]])
    alone, together = compare(runs), compare(pd.concat([runs, other]))
    assert list(dict.fromkeys(together["domain"])) == ["spiral", "digits"]
    same = together[together["domain"] == "digits"].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, alone)


def test_equal_runs_are_no_difference_and_a_constant_one_is_certain():
    runs = pd.concat(
        [
            rows("baselines", "UBN", 0.5 + noise(0)),
            rows("weight", "same", 0.5 + noise(0)),
            rows("weight", "shifted", 0.6 + noise(0)),
        ]
    )
    found = compare(runs).set_index("name")
    assert found.loc["same", "p"] == 1 and found.loc["same", "says"] == "open"
    assert found.loc["shifted", "p"] == 0 and found.loc["shifted", "says"] == "ahead"


@pytest.mark.parametrize(
    ("difference", "p", "word"),
    [
        (0.03, 0.01, "ahead"),
        (0.01, 0.01, "a little ahead"),
        (-0.01, 0.04, "a little behind"),
        (-0.3, 0.001, "behind"),
        (1e-4, 1e-9, "level"),
        (0.3, 0.05, "open"),
        (0.3, float("nan"), "open"),
    ],
)
def test_words(difference, p, word):
    assert says(difference, p) == word


def test_bias_and_noise_come_apart():
    def cell(unbiased, noisy):
        return 0.5 + 0.1 * unbiased - 0.04 * noisy + 0.02 * unbiased * noisy + noise(0)

    runs = pd.concat(
        rows("bias and noise", f"{pool}, {number}", cell(pool == "everything", number == "batch"))
        for pool in ("labeled", "everything")
        for number in ("batch", "all")
    )
    found = bias_and_noise(runs).set_index("what")["difference"]
    assert found["less bias"] == pytest.approx(0.1 + 0.02 / 2)
    assert found["more noise"] == pytest.approx(-0.04 + 0.02 / 2)
    assert found["interaction"] == pytest.approx(0.02)


def test_refreshing_is_compared_within_a_run():
    found = of_refreshing(some_runs()).set_index("name")["difference"]
    assert found["UBN"] == pytest.approx(0.01, abs=2e-3)
    assert set(found.index) == {"UBN", "BN"}


def test_work_counts_rows():
    """Of each peer's first trial on the spiral."""
    choices = {name: peer.trials[0] for name, peer in plan.peers("spiral").items()}
    configs = [c for c in plan.claimed("spiral", choices) if c.ingredient == "peers"]
    runs = pd.concat([pd.json_normalize(c.model_dump(mode="json")) for c in configs])
    found = dict(zip(runs["name"], work(runs), strict=True))
    labeled, others = 16, 64
    assert found["BN"] == found["BN, refreshed"] == found["GroupNorm"] == 3 * labeled
    assert found["UBN"] == 3 * labeled + (labeled + others)
    assert found["UBN, joint gradient"] == 3 * labeled + 3 * (labeled + others)
    assert found["BN, averages see unlabeled"] == 3 * labeled + others
    assert found["mean teacher"] == 4 * (labeled + others)


def test_a_panel_a_domain_and_what_is_missing_is_said():
    table = compare(
        pd.concat([some_runs(), some_runs().assign(domain="drives", **{"setting.labels": 128})])
    )
    table = table[~((table["domain"] == "drives") & (table["name"] == "all"))]
    chosen = table[table["ingredient"] == "gradient"]
    figure = ablation.draw_differences(chosen, ["none", "all"], "UBN", "gradient")
    assert [axes.get_title() for axes in figure.axes] == ["digits, 5 a class", "drives, 1 in 128"]
    assert [len(axes.texts) for axes in figure.axes] == [0, 1]
    assert figure.axes[1].texts[0].get_text() == "not run"
    matplotlib.pyplot.close(figure)
