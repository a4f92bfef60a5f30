"""Fetch a file over HTTP so that no byte is lost or mixed up: resume, retries, checks of size.

A later request asks for the rest of the same version only (`Range` with `If-Range`), so bytes of
two versions are never joined, and a process may be killed at any moment.
"""

import logging
import threading
from collections.abc import Callable

import requests
import tenacity

from kitti_download.partial_file import Partial, Version
from kitti_download.patience import Patience, seconds_asked_for, waits

CHUNK = 1 << 16
_log = logging.getLogger(__name__)
_ASK_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class TransferError(OSError):
    """A file could not be fetched."""


class Stopped(Exception):
    """The transfer was asked to stop; what arrived is kept."""


class _Broken(Exception):
    """One request failed in a way that another may mend."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait  # seconds, as the server asked for


_MENDABLE = (
    _Broken,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,  # the connection closed within the body
)


def fetch(
    url: str,
    partial: Partial,
    *,
    patience: Patience | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
    stop: threading.Event | None = None,
) -> None:
    """Fetch the rest of a file until `partial` holds all of it.

    Asks again, after random waits that grow exponentially, when the connection breaks or stalls,
    when the body is cut short, and when the server is busy (408, 425, 429, 5xx; `Retry-After` is
    kept to). Starts from the beginning when the file changed or the server ignores ranges.

    Args:
        url: What to fetch.
        partial: Where it goes; bytes of the same version that are here are not fetched again.
        patience: Time limits and number of attempts.
        on_bytes: Called with the number of bytes that arrived; negative if some are thrown away.
        stop: When set, the transfer ends at the next chunk.

    Raises:
        TransferError: If the server refuses (such as 404), or if attempts bring nothing new.
        Stopped: If `stop` was set.
        OSError: If the disk cannot be written.
    """
    patience, stop = patience or Patience(), stop or threading.Event()
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_MENDABLE),
        wait=waits(patience),
        stop=tenacity.stop_after_attempt(patience.attempts),
        sleep=tenacity.sleep_using_event(stop),
        before_sleep=lambda state: _log.warning(
            "%s: %s; asking again in %.0f s", url, state.outcome.exception(), state.upcoming_sleep
        ),
        reraise=True,
    )
    furthest = partial.size

    def receive_something(session: requests.Session) -> None:
        """Make one request; being cut off is no failure where it brought us further."""
        nonlocal furthest
        if stop.is_set():
            raise Stopped
        try:
            _receive(session, url, partial, patience, on_bytes, stop)
        except _MENDABLE:
            if partial.size < furthest + CHUNK:
                raise
        furthest = max(furthest, partial.size)

    try:
        with requests.Session() as session:
            while not partial.is_complete(url):
                retrying(receive_something, session)
    except _MENDABLE as error:
        raise TransferError(
            f"{url}: {patience.attempts} attempts brought nothing new ({error}); "
            f"{partial.size:,} bytes are kept, run again to go on."
        ) from error
    except requests.RequestException as error:
        raise TransferError(f"{url} cannot be fetched ({error}): check the address.") from error


def remote_size(url: str, patience: Patience) -> int | None:
    """Ask the server for a file's size in bytes; None if it does not tell.

    Raises:
        requests.RequestException: If the server cannot be reached.
    """
    timeout = (patience.connect, min(patience.read, 10.0))
    headers = {"Accept-Encoding": "identity"}
    response = requests.head(url, headers=headers, timeout=timeout, allow_redirects=True)
    return Version.of(url, response.headers).size if response.status_code == 200 else None


def _receive(
    session: requests.Session,
    url: str,
    partial: Partial,
    patience: Patience,
    on_bytes: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Make one request for what is missing, and append what comes."""
    headers = {"Accept-Encoding": "identity"}  # else sizes and ranges would be of other bytes
    if wanted := partial.resumable(url):
        headers |= {"Range": f"bytes={partial.size}-", "If-Range": wanted.validator}
    timeout = (patience.connect, patience.read)
    with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if stop.is_set():
            raise Stopped
        _check_status(response, url)
        if response.status_code == 200:
            on_bytes(-partial.size)
            partial.start(Version.of(url, response.headers))
        elif not (wanted and _continues(response, wanted, partial.size)):
            on_bytes(-partial.size)
            partial.discard()
            raise _Broken(f"the server's answer {response.status_code} does not fit what is here")
        with partial.path.open("ab") as file:
            for chunk in response.iter_content(CHUNK):
                if stop.is_set():
                    raise Stopped
                file.write(chunk)
                on_bytes(len(chunk))
    version = partial.version()
    if version.size is None:  # no length was told: the archive's own directory must do
        partial.note(version.model_copy(update={"size": partial.size}))
    elif partial.size != version.size:
        raise _Broken(f"the body ended at byte {partial.size:,} of {version.size:,}")


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in _ASK_AGAIN:
        wait = seconds_asked_for(response.headers.get("Retry-After", ""))
        raise _Broken(f"the server answered {status} {response.reason}", wait)
    if status not in (200, 206, 416):  # 416, no such range, is one more answer that does not fit
        raise TransferError(
            f"The server answered {status} {response.reason} to {url}: check the base URL."
        )


def _continues(response: requests.Response, wanted: Version, offset: int) -> bool:
    """Return whether a response holds the rest of the wanted version from an offset on."""
    expected = f"bytes {offset}-{wanted.size - 1}/{wanted.size}"
    sent = Version.of(wanted.url, response.headers)
    same = sent.validator in (None, wanted.validator)  # some servers ignore If-Range
    return same and response.headers.get("Content-Range") == expected
