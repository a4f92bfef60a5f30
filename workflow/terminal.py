"""What the workflow's scripts say to the terminal, and how they write time."""

import time


def say(message: str) -> None:
    """Print one dated line at once; several jobs share the terminal."""
    print(f"{time.strftime('%H:%M:%S')}  {message}", flush=True)


def duration(seconds: float) -> str:
    """Write a time span as a reader would: 42 s, 3 min 05 s, 2 h 07 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def describe(error: BaseException) -> str:
    """Say in one line what went wrong: the last line of an error's message, or its name."""
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C"
    if hasattr(error, "errors"):  # pydantic's, of a configuration
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
