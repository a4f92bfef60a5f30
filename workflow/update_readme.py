"""Write the table of claims, by the committed records, between the two markers of README.md.

    python workflow/update_readme.py

run in the project's folder.
"""

import sys
from pathlib import Path

from experiments.verdicts.claims import load_claims, read_evidence
from experiments.verdicts.tables import between_markers, judge_all, sentence, to_markdown
from whole import write_whole


def committed_table(root: Path) -> str:
    """Return a sentence and the Markdown table of the standard profile's committed records."""
    evidence = read_evidence(root / "results" / "standard" / "records")
    table = judge_all(load_claims(root / "claims.yaml"), evidence.table, "standard")
    return f"{sentence(table)}\n\n{to_markdown(table)}"


def main() -> None:
    """Update README.md, or say why that cannot be done."""
    readme = Path("README.md")
    try:
        text = between_markers(readme.read_text(encoding="utf-8"), committed_table(Path.cwd()))
    except ValueError as error:
        sys.exit(f"{readme}: {error}")
    write_whole(readme, text)


if __name__ == "__main__":
    main()
