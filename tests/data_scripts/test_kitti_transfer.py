"""One file from a local server that misbehaves in every way that a real one may."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from kitti_download.partial_file import Partial
from kitti_download.patience import Patience
from kitti_download.transfer import Stopped, TransferError, fetch
from kitti_server import HASTE, Answer, KittiServer

BLOB = os.urandom(1_000_000)


@pytest.fixture
def server():
    with KittiServer() as running:
        running.publish("blob", BLOB)
        yield running


@pytest.fixture
def partial(tmp_path):
    return Partial(tmp_path / "blob")


def fetch_blob(server, partial, **options):
    fetch(f"{server.url}/blob", partial, **{"patience": HASTE} | options)
    assert partial.path.read_bytes() == server.files["/avg-kitti/blob"]


def statuses(server):
    return [status for _, status in server.gets("blob")]


def test_a_file_arrives_and_is_counted(server, partial):
    counted = []
    fetch_blob(server, partial, on_bytes=counted.append)
    assert sum(counted) == len(BLOB)
    assert partial.is_complete(f"{server.url}/blob")


def test_a_complete_file_is_not_asked_for_again(server, partial):
    fetch_blob(server, partial)
    fetch_blob(server, partial)
    assert statuses(server) == [200]


def test_a_cut_body_is_resumed_without_sending_a_byte_twice(server, partial):
    server.answer("blob", Answer(cut_after=300_000), Answer(cut_after=300_000))
    counted = []
    fetch_blob(server, partial, on_bytes=counted.append)
    assert statuses(server) == [200, 206, 206]
    assert sum(counted) == len(BLOB)
    # What a broken connection had in its buffer, less than 64 KiB each time, is asked for again.
    assert len(BLOB) <= server.sent("blob") < len(BLOB) + 2 * (1 << 16)


def test_steady_progress_may_take_more_requests_than_attempts(server, partial):
    server.answer("blob", *[Answer(cut_after=140_000) for _ in range(6)])
    fetch_blob(server, partial)
    assert len(statuses(server)) > HASTE.attempts


def test_a_stalled_body_is_resumed(server, partial):
    server.answer("blob", Answer(stall_after=400_000))
    started = time.monotonic()
    fetch_blob(server, partial)
    assert statuses(server) == [200, 206]
    assert time.monotonic() - started < 30  # it waits for the read timeout, not for ever


def test_a_server_that_stays_silent_ends_in_an_error_that_says_how_to_go_on(server, partial):
    server.answer("blob", *[Answer(stall_after=0) for _ in range(9)])
    with pytest.raises(TransferError, match=r"3 attempts brought nothing new .*run again"):
        fetch_blob(server, partial)
    assert statuses(server) == [200] * 3


def test_a_file_that_changed_is_never_joined_to_the_old_bytes(server, partial):
    other = os.urandom(900_000)
    change = Answer(before=lambda: server.publish("blob", other))
    server.answer("blob", Answer(cut_after=500_000), change)
    counted = []
    fetch_blob(server, partial, on_bytes=counted.append)
    assert partial.path.read_bytes() == other
    assert statuses(server) == [200, 200]
    assert sum(counted) == len(other)


@pytest.mark.parametrize("size", [900_000, len(BLOB)])
def test_nor_when_the_server_ignores_if_range(server, partial, size):
    server.if_range = False
    other = os.urandom(size)
    change = Answer(before=lambda: server.publish("blob", other))
    server.answer("blob", Answer(cut_after=500_000), change)
    fetch_blob(server, partial)
    assert partial.path.read_bytes() == other
    assert statuses(server) == [200, 206, 200]


def test_a_server_that_ignores_ranges_starts_again(server, partial):
    server.ranges = False
    server.answer("blob", Answer(cut_after=500_000))
    counted = []
    fetch_blob(server, partial, on_bytes=counted.append)
    assert statuses(server) == [200, 200]
    assert sum(counted) == len(BLOB)


def test_a_server_that_ignores_ranges_and_always_cuts_is_given_up(server, partial):
    server.ranges = False
    server.answer("blob", *[Answer(cut_after=500_000) for _ in range(20)])
    with pytest.raises(TransferError, match="brought nothing new"):
        fetch_blob(server, partial)
    assert len(statuses(server)) == 1 + HASTE.attempts  # the first one did bring something


def test_without_a_validator_nothing_is_resumed(server, partial):
    server.validators = False
    server.answer("blob", Answer(cut_after=500_000))
    fetch_blob(server, partial)
    assert [("Range" in headers) for headers, _ in server.gets("blob")] == [False, False]


def test_a_weak_etag_is_no_validator_but_a_date_is(server, partial):
    headers = {"ETag": 'W/"1"', "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server.answer("blob", Answer(cut_after=500_000, headers=headers), Answer(headers=headers))
    server.if_range = False
    fetch_blob(server, partial)
    assert statuses(server) == [200, 206]
    assert server.gets("blob")[1][0]["If-Range"] == headers["Last-Modified"]


def test_bytes_of_another_address_are_not_resumed(server, partial):
    server.if_range, same = False, {"ETag": '"1"'}  # nothing but the address tells them apart
    server.publish("other", os.urandom(len(BLOB)))
    server.answer("other", Answer(cut_after=200_000, headers=same), *[Answer(status=503)] * 3)
    with pytest.raises(TransferError):
        fetch(f"{server.url}/other", partial, patience=HASTE)
    assert partial.size > 0
    server.answer("blob", Answer(headers=same))
    fetch_blob(server, partial)
    assert statuses(server) == [200]


@pytest.mark.parametrize("sidecar", [None, b"", b"{", b'{"url": 1}', b"\xff"])
def test_bytes_of_unknown_origin_are_not_resumed(server, partial, sidecar):
    partial.path.write_bytes(b"?" * 1000)
    if sidecar is not None:
        Path(f"{partial.path}.json").write_bytes(sidecar)
    fetch_blob(server, partial)
    assert statuses(server) == [200]


def test_more_bytes_than_there_should_be_are_thrown_away(server, partial):
    fetch_blob(server, partial)
    with partial.path.open("ab") as file:
        file.write(b"more")
    fetch_blob(server, partial)
    assert statuses(server) == [200, 200]


def test_a_range_that_the_server_does_not_have_starts_again(server, partial):
    server.answer("blob", Answer(cut_after=500_000), Answer(status=416))
    counted = []
    fetch_blob(server, partial, on_bytes=counted.append)
    assert statuses(server) == [200, 416, 200]
    assert sum(counted) == len(BLOB)


@pytest.mark.parametrize("range_", ["bytes 0-999999/1000000", "bytes 7-999999/1000000", "nonsense"])
def test_another_range_than_asked_for_is_not_appended(server, partial, range_):
    wrong = Answer(headers={"Content-Range": range_})
    server.answer("blob", Answer(cut_after=500_000), wrong)
    fetch_blob(server, partial)
    assert statuses(server) == [200, 206, 200]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_a_refusal_fails_at_once(server, partial, status):
    server.answer("blob", *[Answer(status=status)] * 5)
    with pytest.raises(TransferError, match=rf"{status} .*/blob: check the base URL"):
        fetch_blob(server, partial)
    assert statuses(server) == [status]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server, partial, status):
    server.answer("blob", *[Answer(status=status)] * 2)
    fetch_blob(server, partial)
    assert statuses(server) == [status, status, 200]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept_to_but_not_for_ever(server, partial, form):
    date = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    after = Answer(status=503, headers={"Retry-After": "1" if form == "seconds" else date})
    server.answer("blob", after)
    patience = Patience(attempts=2, back_off=1e-6, longest=1.5)
    started = time.monotonic()
    fetch_blob(server, partial, patience=patience)
    assert time.monotonic() - started >= (1 if form == "seconds" else 1.5)


@pytest.mark.parametrize("text", ["soon", "-1", "", "9" * 400, "Mon, 99 Foo 2020 00:00:00 GMT"])
def test_a_nonsensical_retry_after_does_no_harm(server, partial, text):
    server.answer("blob", Answer(status=429, headers={"Retry-After": text}))
    fetch_blob(server, partial)


def test_a_length_that_is_too_large_is_a_cut_body(server, partial):
    server.answer("blob", Answer(more_length=10))
    fetch_blob(server, partial)
    assert statuses(server) == [200, 206, 200]  # the rest tells another length, so it starts again


def test_a_rest_that_says_to_be_whole_but_is_not_ends_in_an_error(server, partial):
    empty = Answer(headers={"Content-Length": "0"}, cut_after=0)
    server.answer("blob", Answer(cut_after=500_000), *[empty] * 9)
    with pytest.raises(TransferError, match=r"the body ended at byte \d+,\d+ of 1,000,000"):
        fetch_blob(server, partial)
    assert statuses(server) == [200] + [206] * HASTE.attempts


def test_a_body_of_unknown_length_is_taken_to_its_marked_end(server, partial):
    server.answer("blob", Answer(chunked=True, cut_after=300_000), Answer(chunked=True))
    fetch_blob(server, partial)
    assert statuses(server) == [200, 200]


def test_an_address_that_is_none_is_said(partial):
    for address in ("nowhere", "ftp://127.0.0.1/x", "http://"):
        with pytest.raises(TransferError, match="check the address"):
            fetch(address, partial, patience=HASTE)


def test_a_server_out_of_reach_is_said(partial):
    with pytest.raises(TransferError, match="3 attempts brought nothing new"):
        fetch("http://127.0.0.1:9/blob", partial, patience=HASTE)


@pytest.mark.parametrize("answer", [Answer(), Answer(status=503, headers={"Retry-After": "60"})])
def test_a_transfer_stops_when_asked_to(server, partial, answer):
    stop = threading.Event()
    server.delay = 0.02
    server.answer("blob", answer)
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        fetch_blob(server, partial, stop=stop, patience=Patience())
    assert time.monotonic() - started < 20
    assert partial.size < len(BLOB)
