"""All claims judged at once: a tidy table, and the same as Markdown and as JSON."""

import math
import re
from collections.abc import Iterable
from typing import Any, get_args

import pandas as pd

from experiments.verdicts.claims import Claim, Judgement, judge
from experiments.verdicts.rule import Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
BEYOND = "beyond the paper"
APART = {
    "identity": "identities of our own code",
    "cost": "costs",
}  # no findings: lists of their own
# Verdicts that are little without a reason.
SAYS_WHY = ("partially", "inconclusive", "not tested here", "measured")


def section(claim: Claim) -> str:
    """Return the section of the paper that a finding is from, `Section 3.3`, or another list."""
    if claim.kind in APART:
        return APART[claim.kind]
    found = re.search(r"Sections? (\d+(?:\.\d+)*)", claim.place)
    return f"Section {found[1]}" if found else BEYOND


def in_paper_order(claims: Iterable[Claim]) -> list[Claim]:
    """Sort claims by section and figure of the paper, then those beyond it and those apart."""
    lists = [BEYOND, *APART.values()]

    def place(claim: Claim) -> tuple[list[int], int]:
        of = section(claim)
        numbers = [99, lists.index(of)] if of in lists else [int(n) for n in re.findall(r"\d+", of)]
        figure = re.search(r"Figure (\d+)", claim.place)
        return numbers, int(figure[1]) if figure else 99

    return sorted(claims, key=place)


def judge_all(claims: Iterable[Claim], records: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Judge claims by the records of a profile: a table, one row a claim in the paper's order.

    Its columns are `claim` (the id), `section`, `place`, `text`, `paper`, `caveat`, `ours` (the
    numbers as text, a line for each cell of a grid), `estimate`, `low`, `high` (NaN where there is
    none), `seeds`, `p`, `verdict`, `reason`, `criterion`, `statistic`, `direction`, `threshold`,
    `margin`, `records` (the files' names, without ending), `preconditions` (texts) and `cells`
    (such rows, with the cell as `claim`). Records that contradict each other make their claim
    inconclusive; the reason says why.
    """
    return pd.DataFrame([_judged(claim, records, profile) for claim in in_paper_order(claims)])


def _judged(claim: Claim, records: pd.DataFrame, profile: str) -> dict[str, Any]:
    try:
        judgement = judge(claim, records, profile)
    except ValueError as error:
        judgement = Judgement("inconclusive", str(error))
    row = _row(claim, judgement)
    row["cells"] = tuple(_row(claim, cell) | {"claim": name} for name, cell in judgement.cells)
    if row["cells"]:
        row["ours"] = "\n".join(
            f"{cell['claim']}: {cell['ours'] or '-'} {cell['verdict']}" for cell in row["cells"]
        )
    return row


def _row(claim: Claim, judgement: Judgement) -> dict[str, Any]:
    estimate, low, high = judgement.estimate, judgement.low, judgement.high
    return {
        "claim": claim.id,
        "section": section(claim),
        "place": claim.place,
        "text": claim.claim,
        "paper": claim.paper or "",
        "caveat": claim.caveat or "",
        "ours": in_numbers(estimate, low, high, signed=claim.statistic == "paired difference"),
        "estimate": estimate,
        "low": low,
        "high": high,
        "seeds": judgement.seeds,
        "p": judgement.p,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "criterion": criterion(claim),
        "statistic": claim.statistic,
        "direction": claim.direction,
        "threshold": claim.threshold,
        "margin": claim.margin,
        "records": tuple(f"{claim.query.experiment}-{key}" for key in judgement.records),
        "preconditions": tuple(told for told, _ in judgement.preconditions),
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
    zeros = "" if kind == ".1e" else "z"  # no minus before zeros, but at a bound, whose side counts
    return f"{sign}{estimate:{zeros}{kind}}{between}"


def criterion(claim: Claim) -> str:
    """Say in words what "reproduced" needs of a claim's numbers; "" for a cost: no test."""
    if claim.kind == "cost":
        return ""
    if claim.statistic == "largest":
        return f"the largest value of all seeds is at most {claim.margin:g}"
    of = "difference, paired by seed," if claim.statistic == "paired difference" else "mean"
    if claim.direction == "equal":
        near = f"within {claim.margin:g} of {claim.threshold:g}"
        return f"the 90 % t interval of the {of} lies {near}"
    side, sign = ("above", 1) if claim.direction == "greater" else ("below", -1)
    bound = claim.threshold + sign * claim.margin
    beside = f" ({claim.threshold:g} would be no effect, the margin is {claim.margin:g})"
    if claim.statistic == "paired difference" and claim.threshold:
        beside = f" ({claim.threshold:g} is the claimed size, 0 would be no effect)"
    cells = ", in each cell of its grid" if claim.grid else ""
    return f"the 95 % interval of the {of} lies {side} {bound:g}{cells}{beside}"


def of_paper(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the paper's findings."""
    return table[~table["section"].isin([BEYOND, *APART.values()])]


def count(table: pd.DataFrame) -> dict[Verdict, int]:
    """Return the number of rows of each verdict, zeros too."""
    return {verdict: int((table["verdict"] == verdict).sum()) for verdict in VERDICTS}


def in_short(claim: str) -> str:
    """Return the main clause of a claim: up to a colon or full stop, without brackets."""
    claim = re.sub(r" \(.*?\)|\.$", "", claim)
    short = re.sub(r"^(.{45,}?)[:.] .*", r"\1", claim)  # what is shorter is hardly a clause
    return short[:1].upper() + short[1:]


def sentence(table: pd.DataFrame) -> str:
    """Say how many of the paper's claims have each verdict, and of what is listed apart."""
    said = [_counted(of_paper(table), "claim of the paper", "claims of the paper")]
    names = {
        BEYOND: ("question of ours beyond it", "questions of ours beyond it"),
        APART["identity"]: ("identity of our own code", APART["identity"]),
        APART["cost"]: ("cost", APART["cost"]),
    }
    for name, words in names.items():
        if len(some := table[table["section"] == name]):
            said.append(_counted(some, *words))
    return said[0] + "." + (f" Apart from these, {'; '.join(said[1:])}." if said[1:] else "")


def corrected(table: pd.DataFrame) -> str:
    """Say which verdicts would not be shown if the tests of each figure were corrected together.

    Holm's correction at 5 %, over all tests of the claims of one place, those of the cells of a
    grid too; the verdicts stay as they are.
    """
    changed = []
    for _, some in of_paper(table).groupby("place", sort=False):
        tests = []
        for row in some.to_dict("records"):
            cells = [cell | {"claim": f"{row['claim']}: {cell['claim']}"} for cell in row["cells"]]
            tests += [one for one in cells or [row] if not math.isnan(one["p"])]
        most = 0.0
        for rank, one in enumerate(sorted(tests, key=lambda one: one["p"])):
            most = max(most, one["p"] * (len(tests) - rank))
            if most > 0.05 and one["verdict"] in ("reproduced", "partially", "opposite"):
                p = f"p {one['p']:.3f}, corrected {min(most, 1):.3f}"
                changed.append(f"{one['claim']} ({one['verdict']}; {p})")
    found = "; ".join(changed) or "none"
    return f"Not shown after Holm's correction of t-tests within a figure or section: {found}."


def _counted(table: pd.DataFrame, one: str, many: str) -> str:
    parts = [f"{number} {verdict}" for verdict, number in count(table).items() if number]
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1] if parts else "none"]))
    return f"{len(table)} {one if len(table) == 1 else many}: {listed}"


def table_markdown(rows: Iterable[dict[str, Any]]) -> str:
    """Write rows of `judge_all` as a short table: id, what the claim says, numbers, verdict."""
    head = ["| claim | it says | ours | verdict |", "|---|---|---|---|"]
    return "\n".join([*head, *map(_in_markdown, rows)]) + "\n"


def _in_markdown(row: dict[str, Any]) -> str:
    # A count of lines has no seeds.
    counted = row["section"] == APART["cost"] and row["statistic"] == "largest"
    seeds = f", {row['seeds']} seeds" if row["seeds"] > 1 and not counted else ""
    verdict = row["verdict"]
    told = [row["reason"]] if verdict in SAYS_WHY and not row["cells"] else []
    told += [f"*{row['caveat']}*"] if row["caveat"] else []
    strong = f"**{verdict}**" if verdict in ("opposite", "not reproduced") else verdict
    cells = [
        f"`{row['claim']}`",
        in_short(row["text"]) + (f"; the paper: {row['paper']}" if row["paper"] else ""),
        row["ours"].replace("\n", "<br>") + seeds if row["ours"] else "-",
        "; ".join([strong, *told]),
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def to_json(claims: Iterable[Claim], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each claim of the ledger in full with its judgement, ready for `json.dumps`."""
    judged = {row["claim"]: row for row in table.to_dict("records")}
    return [
        claim.model_dump(mode="json") | {"judgement": _judgement(judged[claim.id])}
        for claim in in_paper_order(claims)
    ]


def _judgement(row: dict[str, Any]) -> dict[str, Any]:
    numbers = {
        name: row[name] if math.isfinite(row[name]) else None
        for name in ("estimate", "low", "high")
    }
    words = {name: row[name] for name in ("verdict", "reason", "criterion", "seeds")}
    more = {name: list(row[name]) for name in ("preconditions", "records")}
    cells = {cell["claim"]: _judgement(cell) for cell in row.get("cells", ())}
    return words | numbers | more | ({"cells": cells} if cells else {})
