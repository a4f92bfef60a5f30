"""The page of the paper's statements knows each claim about the paper, and no other."""

import re
from fnmatch import fnmatch

from experiments.verdicts.claims import load_claims
from small_project import ROOT

PAGE = ROOT / "docs" / "paper_statements.md"


def asked(text: str) -> set[str]:
    """Return the claims, or patterns of claims, that a page names in its last column."""
    last = [line.rstrip(" |").rpartition("|")[2] for line in text.splitlines() if "|" in line]
    return {name for cell in last for name in re.findall(r"`([a-z][a-z0-9*-]+)`", cell)}


def strays(text: str) -> list[str]:
    """Return claims about the paper that the page lacks, and names on it that are no claim."""
    names, claims = asked(text), load_claims(ROOT / "claims.yaml")
    lacking = [
        claim.id
        for claim in claims
        if claim.place != "beyond the paper" and not any(fnmatch(claim.id, n) for n in names)
    ]
    return lacking + [n for n in sorted(names) if not any(fnmatch(c.id, n) for c in claims)]


def test_every_claim_about_the_paper_has_its_place_on_the_page():
    assert strays(PAGE.read_text()) == []


def test_what_is_missing_or_unknown_is_told():
    text = PAGE.read_text()
    assert strays(text.replace("`fig4-uncertainty`, ", "")) == ["fig4-uncertainty"]
    assert strays(text.replace("`fig4-uncertainty`", "`fig4-uncertainty`, `fig7-more`")) == [
        "fig7-more"
    ]
