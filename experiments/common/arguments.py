"""Numbers on the command line."""

import argparse


def whole_number(text: str, least: int = 1, instead: str = "") -> int:
    """Read a whole number from `least` on; `instead` names what else may stand there."""
    if text.isdecimal() and int(text) >= least:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on{instead}.")
