"""Make the playground, docs/playground.html: modules, style and picture in one file.

Browsers load no module of a page that is opened as a file, so its scripts stand in the page; the
worker's are a text from which it starts one. `python site/bundle.py` writes the file anew.
"""

import argparse
import base64
import re
from pathlib import Path

SOURCES = Path(__file__).parent / "playground"
PAGE = Path(__file__).parents[1] / "docs" / "playground.html"
IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)


def script(name: str, folder: Path = SOURCES) -> str:
    """Return a module behind all that it imports, each once, as one script."""
    texts: dict[str, str] = {}

    def add(name: str) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        for needed in IMPORT.findall(text):
            if needed not in texts:
                add(needed)
        texts[name] = re.sub(r"^export ", "", IMPORT.sub("", text), flags=re.MULTILINE)

    add(name)
    return "\n".join(texts.values())


def page() -> str:
    """Return the page."""

    def part(match: re.Match) -> str:
        path = SOURCES / match[1]
        if path.suffix == ".js":
            return script(path.name)
        if path.suffix == ".webp":
            return base64.b64encode(path.read_bytes()).decode()
        return path.read_text(encoding="utf-8")

    template = (SOURCES / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{ ([\w.]+) \}\}", part, template)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
