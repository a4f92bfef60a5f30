"""All claims judged at once: a tidy table, and the same as Markdown and as JSON."""

import math
import re
from collections.abc import Iterable
from typing import Any, get_args

import pandas as pd

from experiments.verdicts.claims import Claim, Judgement, Verdict, judge

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
BEYOND = "beyond the paper"
BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"


def section(claim: Claim) -> str:
    """Return the section of the paper that a claim is from: `Section 3.3`, or BEYOND."""
    found = re.search(r"Sections? (\d+(?:\.\d+)*)", claim.place)
    return f"Section {found[1]}" if found else BEYOND


def in_paper_order(claims: Iterable[Claim]) -> list[Claim]:
    """Sort claims by section and figure of the paper; those without one come last."""

    def place(claim: Claim) -> tuple[list[int], int]:
        numbers = [int(n) for n in re.findall(r"\d+", section(claim))] or [99]
        figure = re.search(r"Figure (\d+)", claim.place)
        return numbers, int(figure[1]) if figure else 99

    return sorted(claims, key=place)


def judge_all(claims: Iterable[Claim], records: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Judge claims by the records of a profile: a table, one row a claim in the paper's order.

    Its columns are `claim` (the id), `section`, `place`, `text`, `paper`, `ours` (the numbers as
    text), `estimate`, `low`, `high` (NaN where there is none), `seeds`, `verdict`, `reason`,
    `criterion`, `statistic`, `direction`, `threshold`, `margin` and `records` (the files' names,
    without ending). Records that contradict each other make their claim inconclusive; the reason
    says why.
    """
    return pd.DataFrame([_row(claim, records, profile) for claim in in_paper_order(claims)])


def _row(claim: Claim, records: pd.DataFrame, profile: str) -> dict[str, Any]:
    try:
        judgement = judge(claim, records, profile)
    except ValueError as error:
        judgement = Judgement("inconclusive", str(error))
    numbers = (judgement.estimate, judgement.low, judgement.high)
    estimate, low, high = (math.nan if number is None else number for number in numbers)
    experiment = claim.query.experiment if claim.query else ""
    return {
        "claim": claim.id,
        "section": section(claim),
        "place": claim.place,
        "text": claim.claim,
        "paper": claim.paper or "",
        "ours": in_numbers(estimate, low, high, signed=claim.statistic == "paired difference"),
        "estimate": estimate,
        "low": low,
        "high": high,
        "seeds": judgement.seeds,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "criterion": criterion(claim),
        "statistic": claim.statistic or "",
        "direction": claim.direction,
        "threshold": claim.threshold,
        "margin": claim.margin,
        "records": tuple(f"{experiment}-{key}" for key in judgement.records),
    }


def in_numbers(estimate: float, low: float, high: float, signed: bool) -> str:
    """Write an estimate with its interval: `+0.008 [-0.003, 0.018]`; "" where there is none."""
    known = [abs(number) for number in (estimate, low, high) if math.isfinite(number)]
    whole = all(number == round(number) for number in known)
    kind = ".0f" if whole else ".3f" if max(known) >= 5e-4 else ".1e"
    if not known:
        return ""
    sign = "+" if signed and estimate > 0 else ""
    between = "" if math.isnan(low) else f" [{low:{kind}}, {high:{kind}}]"
    return f"{sign}{estimate:{kind}}{between}"


def criterion(claim: Claim) -> str:
    """Say in words what "reproduced" needs of a claim's numbers; "" for a claim without a test."""
    if claim.statistic is None:
        return ""
    if claim.statistic == "largest":
        return f"the largest value of all seeds is at most {claim.margin:g}"
    what = "the 95 % interval of the " + (
        "difference, paired by seed," if claim.statistic == "paired difference" else "mean"
    )
    if claim.direction == "equal":
        return f"{what} lies within {claim.margin:g} of {claim.threshold:g}"
    side, sign = ("above", 1) if claim.direction == "greater" else ("below", -1)
    bound = claim.threshold + sign * claim.margin
    beside = f" ({claim.threshold:g} would be no effect, the margin is {claim.margin:g})"
    return f"{what} lies {side} {bound:g}{beside}"


def count(table: pd.DataFrame) -> dict[Verdict, int]:
    """Return the number of claims of each verdict, zeros too."""
    return {verdict: int((table["verdict"] == verdict).sum()) for verdict in VERDICTS}


def in_short(claim: str) -> str:
    """Return the main clause of a claim: up to a colon or full stop, without brackets."""
    claim = re.sub(r"^Beyond the paper: | \(.*?\)|\.$", "", claim)
    short = re.sub(r"^(.{45,}?)[:.] .*", r"\1", claim)  # what is shorter is hardly a clause
    return short[:1].upper() + short[1:]


def sentence(table: pd.DataFrame) -> str:
    """Say in one sentence how many claims there are of each verdict."""
    ours = int((table["section"] == BEYOND).sum())
    parts = [f"{number} {verdict}" for verdict, number in count(table).items() if number]
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1] if parts else "none"]))
    beyond = f" ({ours} of them questions of ours beyond the paper)" if ours else ""
    return f"{len(table)} claims{beyond}: {listed}."


def to_markdown(table: pd.DataFrame) -> str:
    """Write the short table for a README: id, what the claim says, our numbers, verdict."""
    lines = ["| claim | it says | ours | verdict |", "|---|---|---|---|"]
    for row in table.to_dict("records"):
        seeds = f", {row['seeds']} seeds" if row["seeds"] > 1 else ""
        says = in_short(row["text"]) + (f"; the paper: {row['paper']}" if row["paper"] else "")
        verdict = row["verdict"]
        cells = [
            f"`{row['claim']}`",
            says,
            row["ours"] + seeds if row["ours"] else "-",
            f"**{verdict}**" if verdict == "not reproduced" else verdict,
        ]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def between_markers(text: str, inner: str) -> str:
    """Put `inner` between the two marker comments of a Markdown text, for what is there.

    Raises:
        ValueError: The text has not each marker once, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ValueError(f"The text must have {BEGIN} and then {END}, each once, on own lines.")
    return f"{before}{BEGIN}\n{inner}{END}{after}"


def to_json(claims: Iterable[Claim], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each claim of the ledger in full with its judgement, ready for `json.dumps`."""
    judged = {row["claim"]: row for row in table.to_dict("records")}
    entries = []
    for claim in in_paper_order(claims):
        row = judged[claim.id]
        numbers = {
            name: row[name] if math.isfinite(row[name]) else None
            for name in ("estimate", "low", "high")
        }
        words = {name: row[name] for name in ("verdict", "reason", "criterion", "seeds")}
        judgement = words | numbers | {"records": list(row["records"])}
        entries.append(claim.model_dump(mode="json") | {"judgement": judgement})
    return entries
