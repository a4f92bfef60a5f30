"""How long to wait for a server, and how often to ask it again."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import tenacity


@dataclass(frozen=True)
class Patience:
    """Time limits in seconds, and a number of attempts."""

    connect: float = 10.0
    """For a connection."""
    read: float = 60.0
    """For the next bytes; a longer silence is a stall."""
    attempts: int = 8
    """Requests in a row that bring nothing new before giving up."""
    back_off: float = 1.0
    """Upper bound of the first random wait between requests; it doubles each time."""
    longest: float = 120.0
    """Upper bound of every wait, also of one that the server asks for."""


def seconds_asked_for(text: str) -> float:
    """Return the seconds that a `Retry-After` header asks to wait, by number or date; else 0."""
    try:
        return float(text) if text.isdecimal() else _seconds_until(parsedate_to_datetime(text))
    except (ValueError, OverflowError):
        return 0.0


def waits(patience: Patience) -> Callable[[tenacity.RetryCallState], float]:
    """Return tenacity's wait before the next attempt: random and growing, or what was asked for.

    The latter is the attribute `wait` of what the last attempt raised.
    """
    back_off = tenacity.wait_random_exponential(patience.back_off, patience.longest)

    def wait(state: tenacity.RetryCallState) -> float:
        asked = getattr(state.outcome.exception(), "wait", 0.0)
        return min(max(back_off(state), asked), patience.longest)

    return wait


def _seconds_until(moment: datetime) -> float:
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
