"""All claims at once: order, words and numbers, the small pictures, the README's table."""

import json
import math
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from experiments.verdicts import figures as pictures
from experiments.verdicts.claims import Claim, Query, judge
from experiments.verdicts.tables import (
    VERDICTS,
    corrected,
    count,
    in_numbers,
    in_paper_order,
    judge_all,
    of_paper,
    sentence,
    table_markdown,
    to_json,
)

UBN = Query(experiment="toy", metric="score", where={"kind": "ubn"}, baseline={"kind": "bn"})
ALONE = UBN.model_copy(update={"baseline": None})
NONE = ALONE.model_copy(update={"where": {"kind": "gn"}})


def claim(name="a", place="Section 1", **options) -> Claim:
    """Return a claim on the mean of runs that there are not, if no `options` say otherwise."""
    settings = {"id": name, "place": place, "claim": "It is so.", "profile": "quick", "seeds": 3}
    settings |= {"statistic": "mean", "query": NONE}
    return Claim(**settings | options)


def records(gain: float, seeds: int = 6) -> pd.DataFrame:
    rows = [
        {"experiment": "toy", "kind": kind, "seed": seed, "key": kind * 8,
         "score": 0.5 + 0.1 * seed + (kind == "ubn") * (gain + 0.001 * (seed % 3))}
        for kind in ("bn", "ubn")
        for seed in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def paired(name="a", **options) -> Claim:
    return claim(name, statistic="paired difference", margin=0.02, query=UBN, **options)


def test_claims_are_in_the_papers_order():
    places = {
        "later": "Section 4, Figure 6",
        "ours": "beyond the paper",
        "no-figure": "Section 3.3",
        "figure": "Section 3.3, Figure 5",
        "earlier-figure": "Section 3.3, Figure 2",
        "two": "Sections 3.2 and 4",
    }
    ordered = in_paper_order([claim(*entry) for entry in places.items()])
    expected = ["two", "earlier-figure", "figure", "no-figure", "later", "ours"]
    assert [entry.id for entry in ordered] == expected


def test_the_table_says_what_judge_says():
    claims = [paired(), paired("strict", direction="smaller"), claim("none")]
    table = judge_all(claims, records(0.05), "quick").set_index("claim")
    for entry in claims:
        judgement, row = judge(entry, records(0.05), "quick"), table.loc[entry.id]
        assert (row.verdict, row.reason, row.seeds) == (
            judgement.verdict, judgement.reason, judgement.seeds,
        )  # fmt: skip
        assert row.estimate == judgement.estimate or math.isnan(row.estimate)
    assert table.loc["a", "records"] == ("toy-" + "ubn" * 8, "toy-" + "bn" * 8)
    assert list(table.verdict) == ["reproduced", "opposite", "not run"]
    assert count(table) == dict.fromkeys(VERDICTS, 0) | {
        "reproduced": 1, "opposite": 1, "not run": 1,
    }  # fmt: skip


def test_records_that_contradict_each_other_stop_one_claim_only():
    twice = pd.concat([records(0.05), records(0.06)])
    table = judge_all([paired(), claim("none")], twice, "quick")
    assert list(table.verdict) == ["inconclusive", "not run"]
    assert "several runs of one seed" in table.reason[0]


@pytest.mark.parametrize(
    ("numbers", "signed", "text"),
    [
        ((0.0082, -0.0027, 0.018), True, "+0.008 [-0.003, 0.018]"),
        ((0.0082, -0.0027, 0.018), False, "0.008 [-0.003, 0.018]"),
        ((-0.15, math.nan, math.nan), True, "-0.150"),
        ((-0.0004, -0.0059, 0.005), True, "0.000 [-0.006, 0.005]"),
        ((8.88e-16, math.nan, math.nan), False, "8.9e-16"),
        ((0.0, 0.0, 0.0), True, "0 [0, 0]"),
        ((24.0, math.nan, math.nan), False, "24"),
        ((math.nan, math.nan, math.nan), True, ""),
    ],
)
def test_numbers_as_text(numbers, signed, text):
    assert in_numbers(*numbers, signed=signed) == text


def test_markdown_has_one_row_a_claim():
    claims = [paired(paper="6 % | more"), claim("none")]
    table = judge_all(claims, records(-0.01), "quick")
    lines = table_markdown(table.to_dict("records")).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith(r"| `a` | It is so; the paper: 6 % \| more | -0.009 [")
    assert lines[2].endswith("], 6 seeds | **opposite** |")
    assert lines[3] == "| `none` | It is so | - | not run |"


def test_what_is_no_finding_is_listed_and_counted_apart():
    twice = {"both": {"kind": "ubn"}, "again": {}}
    lines_of_code = claim("lines", kind="cost", statistic="largest", margin=9.0, query=ALONE)
    claims = [
        lines_of_code,
        claim("same", kind="identity", statistic="largest", margin=9.0, query=ALONE),
        claim("ours", place="beyond the paper"),
        claim("mean", statistic="mean", margin=0.1, query=ALONE, grid=twice, caveat="after trials"),
    ]
    table = judge_all(claims, records(0.0), "quick")
    assert list(table["section"]) == [
        "Section 1", "beyond the paper", "identities of our own code", "costs",
    ]  # fmt: skip
    assert sentence(table) == (
        "1 claim of the paper: 1 reproduced. Apart from these, 1 question of ours beyond it: 1 not "
        "run; 1 identity of our own code: 1 reproduced; 1 cost: 1 measured."
    )
    assert count(of_paper(table))["reproduced"] == 1
    text = table_markdown(table.to_dict("records"))
    mean, lines = (next(r for r in text.splitlines() if f"`{n}`" in r) for n in ("mean", "lines"))
    assert "both: 0.751 [" in mean and "] reproduced<br>again: 0.751" in mean
    assert mean.endswith("| reproduced; *after trials* |")
    assert lines.endswith("| 1.002 | measured; bound 9 |")  # a count has no seeds


def test_holm_within_a_figure_by_hand():
    """Of .012, .02, .03 and .2 the corrected are .048, .06, .06 and .2: the second falls."""

    def row(claim, p, verdict="reproduced", place="Section 3.3, Figure 2", cells=()):
        at = {"claim": claim, "place": place, "section": place.split(",")[0]}
        return at | {"p": p, "verdict": verdict, "cells": cells}

    cells = (row("batch 8", 0.02, "partially"), row("batch 50", 0.2, "inconclusive"))
    rows = [
        row("a", 0.03, "no difference"),
        row("b", 0.012, "opposite"),
        row("c", math.nan, "partially", cells=cells),
        row("alone", 0.049, place="Section 3.3, Figure 3"),
        row("ours", 0.049, place="beyond the paper"),
        row("untested", math.nan, "not tested here"),
    ]
    told = corrected(pd.DataFrame(rows))
    assert told.endswith(": c: batch 8 (partially; p 0.020, corrected 0.060).")
    assert corrected(pd.DataFrame(rows[3:])).endswith(": none.")


def test_json_holds_claim_and_judgement():
    claims = [paired(), claim("none")]
    table = judge_all(claims, records(0.05), "quick")
    first, second = json.loads(json.dumps(to_json(claims, table), allow_nan=False))
    assert first["query"]["baseline"] == {"kind": "bn"} and first["margin"] == 0.02
    assert first["judgement"]["estimate"] == pytest.approx(0.051)
    assert first["judgement"]["records"] == list(table.records[0])
    assert second["judgement"]["estimate"] is None


# The pictures.


SHAPES = [
    paired("greater"),
    paired("smaller", direction="smaller"),
    paired("equal", direction="equal"),
    claim("mean", statistic="mean", threshold=0.5, margin=0.1, query=ALONE),
    claim("largest", statistic="largest", margin=1e-10, query=ALONE),
    claim("exact", statistic="largest", margin=0.0, query=ALONE),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.id)
@pytest.mark.parametrize("gain", [0.0, 0.05, -3.0, 1e-17])
def test_small_picture_is_whole_and_inside_its_frame(shape, gain):
    row = judge_all([shape], records(gain), "quick").to_dict("records")[0]
    svg = ElementTree.fromstring(pictures.interval_svg(row))
    numbers = [
        float(element.get(name))
        for element in svg.iter()
        for name in ("x", "x1", "x2", "cx")
        if element.get(name)
    ]
    assert all(0 <= number <= pictures.WIDTH for number in numbers)
    assert row["ours"] in svg.find("{*}title").text
    (dot,) = svg.findall("{*}circle")
    assert row["verdict"].replace(" ", "-") in dot.get("style")


@pytest.mark.parametrize(("gain", "inside"), [(0.05, True), (0.01, False)])
def test_dot_lies_in_the_shade_where_the_claim_holds(gain, inside):
    row = judge_all([paired()], records(gain), "quick").to_dict("records")[0]
    svg = ElementTree.fromstring(pictures.interval_svg(row))
    shade, dot = svg.find("{*}rect"), float(svg.find("{*}circle").get("cx"))
    left = float(shade.get("x"))
    assert (left <= dot <= left + float(shade.get("width"))) is inside


def test_overview_draws_each_claim_that_has_an_interval():
    table = judge_all([*SHAPES, claim("none")], records(0.05), "quick")
    (axes,) = pictures.draw(table).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["greater", "smaller", "equal", "mean"]
    assert [text.get_text() for text in axes.texts][:2] == ["✓ reproduced", "↔ opposite"]
