"""Read a notebook file as the JSON that it is.

nbformat would do it too, but importing it takes seconds, which every check would cost.
"""

import json
from pathlib import Path
from typing import Any


def read_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook (format 4), with the source of each cell as one string.

    Raises:
        ValueError: The file is no notebook; the message is one sentence.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            cell["source"] = "".join(cell["source"])  # a list of lines, or one string
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is not a notebook of format 4; restore it, or save it again in Jupyter."
        ) from None
    return notebook
