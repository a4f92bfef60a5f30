"""Does the paper hold? Five lines that answer, and the paper's statements with their verdicts.

`statements.yaml` says which claims test what the paper states. Whatever has no record, or names a
claim that there is not, is *not run*, and says why: nothing is left out.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.common.files import NothingTwice, first_error
from experiments.verdicts.rule import MEANING, Verdict, combine
from experiments.verdicts.tables import APART, BEYOND, corrected, of_paper, table_markdown

MEANT = {  # by preconditions, for readers
    "scarce": "that all labels bring BN that much",
    "sees": "that nets see the images",
    "trained": "that training has ended",
    "sensitive": "that more labels help BN",
    "present": "that BN has what would be mended",
}
NEEDED = rf"\b({'|'.join(MEANT)}) \("  # how a reason names what fails
Text = Annotated[str, Field(min_length=1)]
WORDS = "; ".join(f"*{verdict}*: {meaning}" for verdict, meaning in MEANING.items()) + "."
DOUBT = "\N{DAGGER}"  # what a caveat stands behind
UNITS = (
    "UBN minus BN in accuracy, unless words name another quantity: 0.01 is a point, and in depth a "
    "pixel is right within a factor of 1.25; in brackets 95 % intervals over seeds. "
    f"{DOUBT} A margin, a control or a budget was decided late or is unequal: the statement below "
    "says how."
)


class Statement(BaseModel):
    """What the paper states, and the claims that test it; those with words stand for it."""

    model_config = ConfigDict(extra="forbid")

    id: Text
    place: Text
    says: Text  # in our words
    picture: Text | None = None  # a figure of the standard profile
    claims: Annotated[dict[Text, Text | None], Field(min_length=1)]


class Answer(BaseModel):
    """The paper's statements in its order, and which of them a line of the answer is about."""

    model_config = ConfigDict(extra="forbid")

    lines: dict[Text, list[Text]]
    statements: list[Statement]

    @model_validator(mode="after")
    def _names_what_there_is(self) -> "Answer":
        ids = [statement.id for statement in self.statements]
        claims = [claim for statement in self.statements for claim in statement.claims]
        for name in [*ids, *claims]:
            if (ids + claims).count(name) > 1:
                raise ValueError(f"{name} is there twice")
        for about, names in self.lines.items():
            if unknown := [name for name in names if name not in ids]:
                raise ValueError(f"the line '{about}' names no statement '{unknown[0]}'")
        return self


class Clause(NamedTuple):
    """One answer: in words what was asked, the verdict, the numbers or what is missing."""

    claim: str
    asks: str
    verdict: Verdict
    told: str
    caveat: str


class Judged(NamedTuple):
    """A statement, the verdict of those claims that stand for it and why, and these."""

    statement: Statement
    verdict: Verdict
    reason: str
    clauses: tuple[Clause, ...]
    rows: tuple[dict[str, Any], ...]  # of all its claims that there are, of `tables.judge_all`


def load_answer(path: Path | str) -> Answer:
    """Read the statements.

    Raises:
        ValueError: The file is no such list, or names something twice or not at all.
    """
    try:
        return Answer.model_validate(
            yaml.load(Path(path).read_text(encoding="utf-8"), NothingTwice)
        )
    except (yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"{path} is no list of statements: {first_error(error)}.") from error


def judge_statements(answer: Answer, table: pd.DataFrame) -> dict[str, Judged]:
    """Judge the statements, by id, by a table of `tables.judge_all`.

    A statement has the verdict of its claims with words that were run, combined as cells of a grid
    are; of its other claims only where none of those was. A finding that no statement names is in
    one more, at the end.
    """
    named = {claim for statement in answer.statements for claim in statement.claims}
    others = {claim: None for claim in of_paper(table)["claim"] if claim not in named}
    statements = list(answer.statements)
    if others:
        says = "Claims that no statement of statements.yaml names."
        statements.append(Statement(id="others", place="The paper", says=says, claims=others))
    rows = {row["claim"]: row for row in table.to_dict("records")}
    return {statement.id: _judged(statement, rows) for statement in statements}


def _judged(statement: Statement, rows: dict[str, dict[str, Any]]) -> Judged:
    none: dict[str, Any] = {"verdict": "not run", "reason": "claims.yaml has no such claim"}
    all_of = {claim: rows.get(claim, none) for claim in statement.claims}
    run = {claim: row["verdict"] for claim, row in all_of.items() if row["verdict"] != "not run"}
    standing = {claim: found for claim, found in run.items() if statement.claims[claim]} or run
    verdict, reason = combine(standing) if standing else ("not run", "")
    if missing := [claim for claim in all_of if claim not in run]:
        reason = "; ".join(filter(None, [reason, f"not run: {', '.join(missing)}"]))
    clauses = [_clause(claim, words, all_of[claim]) for claim, words in statement.claims.items()]
    there = tuple(rows[claim] for claim in statement.claims if claim in rows)
    return Judged(statement, verdict, reason, tuple(c for c in clauses if c.asks), there)


def _clause(claim: str, words: str | None, row: dict[str, Any]) -> Clause:
    verdict, told, caveat = row["verdict"], row.get("ours", ""), row.get("caveat", "")
    if verdict == "not run":
        cells = row.get("cells", ())
        reason = cells[0]["reason"] if cells else row["reason"]
        told, caveat = re.split(r";| among ", reason)[0], ""
    elif cells := row.get("cells", ()):
        some = (f"{c['claim']}: {c['ours'].partition(' [')[0] or c['verdict']}" for c in cells)
        told = ", ".join(some)
    elif verdict == "not tested here":
        missing = (MEANT[name] for name in re.findall(NEEDED, row["reason"]))
        told += f", not shown: {', '.join(missing)}"
    elif verdict == "inconclusive" and told:
        told += f", {row['reason']}"
    return Clause(claim, words or "", verdict, told or row["reason"], caveat)


def in_lines(answer: Answer, judged: dict[str, Judged]) -> dict[str, list[Clause]]:
    """Return the clauses of each line of the answer."""
    return {
        about: [clause for name in names for clause in judged[name].clauses]
        for about, names in answer.lines.items()
    }


def lines_markdown(answer: Answer, judged: dict[str, Judged]) -> str:
    """Write the lines of the answer as a list, with the units."""
    lines = []
    for about, clauses in in_lines(answer, judged).items():
        lines.append(f"1. **{about}**")
        for c in clauses:
            doubt = DOUBT if c.caveat else ""
            lines.append(f"   - {c.asks}: **{c.verdict}**{doubt} ({c.told})")
    return "\n".join([*lines, "", f"*{UNITS}*"]) + "\n"


def statements_markdown(
    judged: dict[str, Judged], table: pd.DataFrame, picture: Callable[[str], str] | None = None
) -> str:
    """Write each statement so that it unfolds to its claims, and then what is listed apart.

    `picture` returns what shows a figure, by its name; None shows none.
    """
    parts = []
    for statement, verdict, reason, clauses, rows in judged.values():
        told = "; ".join(f"{clause.asks}: {clause.told}" for clause in clauses)
        counts = Counter(clause.verdict for clause in clauses)
        apiece = ", ".join(f"{number} {word}" for word, number in counts.most_common())
        summary = f"<b>{statement.place}.</b> {statement.says} <b>{verdict}</b>"
        summary += f" ({apiece})" if len(counts) > 1 else ""
        inner = [f"{told}.\n"] if told else []
        inner += [f"*{reason}*\n"] if len(rows) > 1 else []
        if picture and statement.picture:
            inner.append(f"{picture(statement.picture)}\n")
        parts.append(_unfolding(summary, [*inner, table_markdown(rows)]))
    named = {row["claim"] for one in judged.values() for row in one.rows}
    apart = table[~table["claim"].isin(named)]
    for name in (BEYOND, *APART.values()):
        if rows := apart[apart["section"] == name].to_dict("records"):
            summary = f"{name[:1].upper()}{name[1:]}, not counted: {len(rows)}"
            parts.append(_unfolding(summary, [table_markdown(rows)]))
    return "\n".join([*parts, corrected(table)])


def _unfolding(summary: str, inner: list[str]) -> str:
    body = "\n".join(inner)
    return f"<details><summary>{summary}</summary>\n\n{body}\n</details>\n"
