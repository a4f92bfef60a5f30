"""The headings of a produced page, as a reader who hears it goes from one to the next."""

import re


def out_of_order(page: str) -> list[str]:
    """Say where a page's headings skip a level, and whether it has another first one than one."""
    headings = re.findall(r"<h([1-6])\b[^>]*>(.*?)</h\1>", page, re.DOTALL)
    said = [re.sub(r"(?:<[^>]+>|\s)+", " ", text).strip() for _, text in headings]
    levels = [int(level) for level, _ in headings]
    faults = (
        [] if levels.count(1) == 1 and levels[0] == 1 else [f"{levels.count(1)} first headings"]
    )
    for text, before, level in zip(said[1:], levels, levels[1:], strict=False):
        if level > before + 1:
            faults.append(f"level {before} is followed by {level}: {text}")
    return faults
