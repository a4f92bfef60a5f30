"""The answer: five lines and the statements, from the records that there are."""

from typing import get_args

import pandas as pd
import pytest

from experiments.verdicts import answer
from experiments.verdicts.claims import Precondition, load_claims
from experiments.verdicts.tables import in_paper_order, judge_all, of_paper
from small_project import ROOT

CLAIMS = load_claims(ROOT / "claims.yaml")
STATED = answer.load_answer(ROOT / "statements.yaml")


def by(records: pd.DataFrame) -> dict[str, answer.Judged]:
    return answer.judge_statements(STATED, judge_all(CLAIMS, records, "standard"))


def test_the_committed_statements_name_each_finding_once_in_the_papers_order(judged):
    """Also that no claim is named which the ledger has not, and none of another list but costs."""
    sections = {claim.id: claim for claim in in_paper_order(CLAIMS)}
    named = [claim for statement in STATED.statements for claim in statement.claims]
    costs = {claim.id for claim in CLAIMS if claim.kind == "cost"}
    assert sorted(named) == sorted({*of_paper(judged)["claim"], *costs})
    heads = [sections[next(iter(s.claims))] for s in STATED.statements if s.id != "cost-and-ease"]
    figures = [claim.place.rpartition("Figure ")[2] for claim in heads if "Figure" in claim.place]
    assert figures == sorted(figures)
    assert len(STATED.lines) == 5 and 7 <= len(STATED.statements) <= 9


def test_lines_say_what_the_table_says(judged):
    lines = answer.in_lines(STATED, answer.judge_statements(STATED, judged))
    table = judged.set_index("claim")
    assert list(lines) == list(STATED.lines)
    for clause in (clause for clauses in lines.values() for clause in clauses):
        row = table.loc[clause.claim]
        assert clause.verdict == row["verdict"]
        if clause.verdict != "not run":
            assert clause.caveat == row["caveat"]
            numbers = [cell["ours"] for cell in row["cells"]] or [row["ours"]]
            assert all(number.split(" [")[0] in clause.told for number in numbers)
        if clause.verdict == "inconclusive" and not row["cells"]:
            assert row["reason"] in clause.told
        if clause.verdict == "not tested here":
            named = clause.told.partition("not shown: ")[2].split(", ")
            said = {words: name for name, words in answer.MEANT.items()}
            assert named and all(f"{said[words]} (" in row["reason"] for words in named)
    assert set(answer.MEANT) == set(get_args(Precondition))


def test_without_any_record_the_five_lines_come_and_say_so():
    text = answer.lines_markdown(STATED, by(pd.DataFrame()))
    lines = [line for line in text.splitlines() if line.startswith("1. ")]
    assert len(lines) == 5
    asked = sum(words is not None for s in STATED.statements for words in s.claims.values())
    shown = text.count("**not run** (there are no records)")
    of_lines = {name for names in STATED.lines.values() for name in names}
    left = sum(
        words is not None
        for s in STATED.statements if s.id not in of_lines
        for words in s.claims.values()
    )  # fmt: skip
    assert shown == asked - left


def test_half_of_the_records_change_only_what_rests_on_them(evidence, judged):
    """A folder without the spiral's runs: its line says what is missing, others are as before."""
    whole = answer.in_lines(STATED, answer.judge_statements(STATED, judged))
    half = answer.in_lines(STATED, by(evidence[evidence["experiment"] != "spiral"]))
    assert half["Cost and ease"] == whole["Cost and ease"]
    assert half["The spiral"]
    for spiral in half["The spiral"]:
        assert spiral.verdict == "not run" and spiral.told == "no record of experiment spiral"
        assert spiral.caveat == ""


def test_a_statement_has_the_verdict_of_its_claims_that_were_run():
    def row(claim, verdict, section="Section 1"):
        return {"claim": claim, "verdict": verdict, "reason": "why; more", "ours": "1", "cells": (),
                "caveat": "", "section": section}  # fmt: skip

    def verdict_of(*verdicts, missing=(), words=()):
        table = pd.DataFrame([row(f"c{i}", verdict) for i, verdict in enumerate(verdicts)])
        claims = dict.fromkeys([*table["claim"], *missing]) | dict(words)
        statement = {"id": "s", "place": "Section 1", "says": "So.", "claims": claims}
        one = answer.Answer(lines={}, statements=[statement])
        return answer.judge_statements(one, table)["s"]

    assert verdict_of("reproduced", "opposite").verdict == "partially"
    assert verdict_of("opposite", "not run").verdict == "opposite"
    assert verdict_of("opposite", "not run").reason == "opposite: c0; not run: c1"
    assert verdict_of("not run", missing=["gone"]).verdict == "not run"
    assert verdict_of("not run", missing=["gone"]).reason == "not run: c0, gone"
    # Claims with words stand for it, the others only where none of those was run.
    said = verdict_of("reproduced", "opposite", words={"c0": "it helps"})
    assert (said.verdict, said.reason) == ("reproduced", "reproduced: c0")
    assert verdict_of("not run", "opposite", words={"c0": "it helps"}).verdict == "opposite"


def test_a_finding_that_no_statement_names_is_not_lost():
    table = judge_all(CLAIMS, pd.DataFrame(), "standard")
    few = answer.Answer(lines={}, statements=STATED.statements[:1])
    others = answer.judge_statements(few, table)["others"]
    assert "fig2-accuracy" in {row["claim"] for row in others.rows}
    shown = answer.statements_markdown(answer.judge_statements(few, table), table)
    assert all(f"| `{claim}` |" in shown for claim in table["claim"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a list", "is no list of statements"),
        ("lines: {A: [b]}\nstatements: []", "the line 'A' names no statement 'b'"),
        ("lines: {}\nstatements: [{id: a, place: b, says: c, claims: {a: d}}]", "a is there twice"),
        ("lines: {}\nstatements: [{id: a}]", "Field required"),
        ("lines: {", "no list of statements: while parsing"),
    ],
)
def test_a_broken_list_gives_one_sentence(tmp_path, text, told):
    (tmp_path / "statements.yaml").write_text(text)
    with pytest.raises(ValueError, match="is no list of statements") as error:
        answer.load_answer(tmp_path / "statements.yaml")
    assert told in str(error.value) and "\n" not in str(error.value)
