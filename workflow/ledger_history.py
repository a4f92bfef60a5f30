"""Check that no claim's margin changed without a word: `python workflow/ledger_history.py`.

A margin that moves after the runs decides nothing. So wherever a number of the ledger differs from
an earlier revision's, the entry must say why, as `changed: reason`.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

FIXED = {  # with the values of entries that leave them out
    "statistic": None,
    "direction": "greater",
    "threshold": 0.0,
    "margin": 0.0,
    "seeds": 1,
    "profile": "standard",
}


class NoHistory(Exception):
    """There is nothing to compare with; says why."""


def revisions(ledger: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return each committed revision of a ledger, newest first: its hash and its entries.

    Raises:
        NoHistory: The ledger is not in a git repository with all of its history.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ledger.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NoHistory(f"git {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    try:
        shallow = git("rev-parse", "--is-shallow-repository").strip() == "true"
    except OSError as error:
        raise NoHistory(f"git cannot be run: {error}") from error
    if shallow:
        raise NoHistory(f"{ledger.parent} is a shallow clone: `git fetch --unshallow` first.")
    told = git("log", "--follow", "--format=%x00%H", "--name-only", "--", ledger.name)
    commits = [commit.split() for commit in told.split("\0")[1:]]
    if not commits:
        raise NoHistory(f"{ledger} was never committed.")
    return [
        (commit, yaml.safe_load(git("show", f"{commit}:{name}")) or []) for commit, name in commits
    ]


def unexplained(ledger: Path) -> list[str]:
    """Return one sentence for each claim whose numbers changed and that does not say why.

    A claim that is new, or has a new id, is compared with nothing.

    Args:
        ledger: The file as it is now, committed or not.

    Raises:
        NoHistory: There is nothing to compare with.
    """
    earlier = revisions(ledger)
    complaints = []
    for claim in yaml.safe_load(ledger.read_text(encoding="utf-8")):
        if claim.get("changed"):
            continue
        for commit, entries in earlier:
            before = next((entry for entry in entries if entry["id"] == claim["id"]), None)
            if before is None:
                continue
            moved = [
                f"{name} was {before.get(name, default)!r} and is {claim.get(name, default)!r}"
                for name, default in FIXED.items()
                if before.get(name, default) != claim.get(name, default)
            ]
            if moved:
                complaints.append(
                    f"{claim['id']}: {', '.join(moved)} since {commit[:8]}; say why as `changed:`, "
                    "or put it back."
                )
                break
    return complaints


def main() -> int:
    """Check the project's ledger; return the exit status."""
    try:
        complaints = unexplained(Path(__file__).resolve().parents[1] / "claims.yaml")
    except NoHistory as error:
        print(f"Not checked: {error}")
        return 0
    print("\n".join(complaints) or "Every change of a margin says why.")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
