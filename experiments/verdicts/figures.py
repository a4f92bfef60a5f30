"""Pictures and tables of verdicts: one a claim, and all claims in one.

The small ones are SVG that takes a page's own colors, `--reproduced` and so on, where it has some.
"""

import math
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from experiments.common import style
from experiments.verdicts.rule import Verdict

COLORS: dict[Verdict, str] = style.VERDICTS
SYMBOLS: dict[Verdict, str] = {
    "reproduced": "✓",
    "partially": "◐",
    "opposite": "↔",
    "no difference": "=",
    "not reproduced": "✗",
    "inconclusive": "?",
    "not tested here": "∅",
    "not run": "○",
    "measured": "#",
}
WIDTH, HEIGHT, EDGE = 230, 44, 34  # of a small picture, and of its sides, in pixels


def color(verdict: Verdict) -> str:
    """Return a verdict's color for CSS: the page's own, or else that of the figures."""
    return f"var(--{verdict.replace(' ', '-')}, {COLORS[verdict]})"


def styled(table: pd.DataFrame) -> Styler:
    """Return a table of verdicts for a notebook, with the verdicts' symbols and colors."""
    columns = ["claim", "paper", "ours", "seeds", "verdict", "reason", "caveat"]

    def mark(verdict: Verdict) -> str:
        return f"border-left: 6px solid {COLORS[verdict]}; padding-left: 6px; white-space: nowrap"

    shown = table[columns].style.hide(axis="index").map(mark, subset=["verdict"])
    shown = shown.set_properties(subset=["ours"], **{"white-space": "pre"})
    shown = shown.set_table_styles([{"selector": "th, td", "props": "text-align: left"}])
    return shown.format({"verdict": lambda verdict: f"{SYMBOLS[verdict]} {verdict}"})


def bounds(row: dict[str, Any]) -> tuple[float, float]:
    """Return the range of values in which a claim counts as reproduced; one end may be infinite."""
    threshold, margin = row["threshold"], row["margin"]
    if row["statistic"] == "largest":
        return 0.0, margin
    if row["direction"] == "equal":
        return threshold - margin, threshold + margin
    if row["direction"] == "smaller":
        return -math.inf, threshold - margin
    return threshold + margin, math.inf


def interval_svg(row: dict[str, Any]) -> str:
    """Draw a claim's estimate and interval against threshold (line) and margin (dotted) as SVG.

    `row` is one of `tables.judge_all`; "" where it has no estimate. The claim holds in the shade.
    """
    if math.isnan(row["estimate"]):
        return ""
    low, high = (row["estimate"] if math.isnan(row[end]) else row[end] for end in ("low", "high"))
    ends = [end for end in bounds(row) if math.isfinite(end)]
    threshold = 0.0 if row["statistic"] == "largest" else row["threshold"]
    shown = [row["estimate"], low, high, threshold, *ends]
    least, span = min(shown), (max(shown) - min(shown)) or 1.0

    def x(value: float) -> float:
        inner = EDGE + (value - least) / span * (WIDTH - 2 * EDGE)
        return min(max(inner, 0.0), float(WIDTH))

    base, middle = HEIGHT - 14, (HEIGHT - 14) / 2
    left, right = (x(end) for end in bounds(row))
    paint = color(row["verdict"])
    lines = [
        f'<rect x="{left:.1f}" y="0" width="{max(right - left, 2):.1f}" height="{base}" '
        f'style="fill:{color("reproduced")}" fill-opacity=".16"/>',
        _vertical(x(threshold), base, ""),
        *(_vertical(x(end), base, ' stroke-dasharray="2 3"') for end in ends if end != threshold),
        f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle}" y2="{middle}" '
        f'style="stroke:{paint}" stroke-width="5" stroke-linecap="round"/>',
        f'<circle cx="{x(row["estimate"]):.1f}" cy="{middle}" r="5" style="fill:{paint}" '
        'stroke="currentColor" stroke-width="1.2"/>',
        *_labels(sorted({threshold, *ends}), x),
    ]
    title = escape(f"{row['claim']}: {row['ours']}; reproduced if {row['criterion']}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'role="img" class="interval"><title>{title}</title>{"".join(lines)}</svg>'
    )


def _vertical(x: float, base: float, more: str) -> str:
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{base}" stroke="currentColor" '
        f'stroke-opacity=".55"{more}/>'
    )


def _labels(values: list[float], x: Any) -> list[str]:
    """Write the values below the picture; neighbors lean away from each other."""
    anchors = {1: ["middle"], 2: ["end", "start"], 3: ["end", "middle", "start"]}[len(values)]
    if len(values) > 1 and x(values[-1]) - x(values[0]) > 40 * len(values):
        anchors = ["middle"] * len(values)
    elif len(values) == 3:  # no room for the one between
        values, anchors = [values[0], values[-1]], ["end", "start"]
    return [
        f'<text x="{x(value):.1f}" y="{HEIGHT - 3}" text-anchor="{anchor}" font-size="10" '
        f'fill="currentColor" fill-opacity=".75">{value:g}</text>'
        for value, anchor in zip(values, anchors, strict=True)
    ]


def draw(table: pd.DataFrame) -> Figure:
    """Draw all claims, or cells of them, that have an interval, in units of their margin.

    0 is no effect, and to the right of 1 a claim holds; one of equality holds between -1 and 1.
    """
    whole = table.to_dict("records")
    cells = [
        [c | {"claim": f"{r['claim']}, {c['claim']}"} for c in r["cells"]] or [r] for r in whole
    ]
    rows = [r for some in cells for r in some if not math.isnan(r["low"]) and r["margin"] > 0]
    figure, axes = plt.subplots(figsize=(8, 0.26 * len(rows) + 1.1))
    for position, row in enumerate(rows):
        scale = row["margin"] * (-1 if row["direction"] == "smaller" else 1)
        mean, low, high = ((row[n] - row["threshold"]) / scale for n in ("estimate", "low", "high"))
        paint, verdict = COLORS[row["verdict"]], row["verdict"]
        axes.hlines(position, low, high, color=paint, linewidth=4)
        axes.plot(mean, position, "o", color=paint, markeredgecolor="k", markersize=5)
        axes.text(1.01, position, f"{SYMBOLS[verdict]} {verdict}", va="center",
                  transform=axes.get_yaxis_transform())  # fmt: skip
    axes.axvline(0, color="k", linewidth=0.8)
    axes.axvline(1, color="k", linewidth=0.8, linestyle=":")
    axes.axvspan(1, 30, color=COLORS["reproduced"], alpha=0.08, linewidth=0)
    axes.set_xscale("symlog", linthresh=2, linscale=1.5)
    ticks = [-10, -5, -2, -1, 0, 1, 2, 5, 10]
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [row["claim"] for row in rows])
    axes.set(xlabel="effect in the claim's direction, in units of its margin",
             xlim=(-30, 30), ylim=(max(len(rows), 1) - 0.5, -0.5))  # fmt: skip
    axes.set_title("dot: estimate; bar: 95 % interval; dotted line: margin; shade: it holds",
                   fontsize=8)  # fmt: skip
    figure.set_label(
        "Estimate and 95 % interval of each claim, or cell of one, in units of its margin: beyond "
        "1, in the shade, it holds. "
        + "; ".join(f"{row['claim']}: {row['verdict']}" for row in rows) + "."
    )  # fmt: skip
    return figure
