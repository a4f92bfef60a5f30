"""A local server of KITTI-like archives that can be told to misbehave, and the archives."""

import io
import threading
import zipfile
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from kitti_download.catalog import Drive
from kitti_download.patience import Patience

HASTE = Patience(connect=2, read=0.3, attempts=3, back_off=0.01, longest=0.1)
"""Limits that let a test wait for what a user would not."""


def zip_of(members: dict[str, bytes], compression=zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


def drive_files(drive: Drive, size: int = 2000, scans=None) -> dict[str, bytes]:
    """Return the files of a drive's archive, by their names in it, as KITTI lays them out."""
    generator = np.random.default_rng(drive.frames)
    top = f"{drive.date}/{drive.name}_sync/"
    files = {}
    for sensor in ("image_00", "image_01", "image_02", "image_03"):
        files[f"{top}{sensor}/timestamps.txt"] = b"2011-09-26 13:02:25\n" * drive.frames
        for frame in range(drive.frames):
            files[f"{top}{sensor}/data/{frame:010d}.png"] = generator.bytes(size)
    files[f"{top}oxts/dataformat.txt"] = b"lat: latitude"
    for name in ("timestamps.txt", "timestamps_start.txt", "timestamps_end.txt"):
        files[f"{top}velodyne_points/{name}"] = b"2011-09-26 13:02:25\n" * drive.frames
    for frame in range(drive.scans) if scans is None else scans:
        files[f"{top}velodyne_points/data/{frame:010d}.bin"] = generator.bytes(size)
    return files


def kept_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files of a drive that must be on the disk in the end."""
    wanted = ("image_02", "image_03", "velodyne_points")
    return {name: content for name, content in files.items() if name.split("/")[2] in wanted}


def calibration_files(date: str) -> dict[str, bytes]:
    names = ("calib_cam_to_cam", "calib_imu_to_velo", "calib_velo_to_cam")
    return {f"{date}/{name}.txt": f"{name} of {date}\n".encode() for name in names}


@dataclass
class Answer:
    """How to answer one GET; each field is one way to misbehave."""

    status: int | None = None  # instead of the file
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the connection closes
    stall_after: int | None = None  # bytes of the body, then silence
    more_length: int = 0  # added to Content-Length
    chunked: bool = False  # no Content-Length
    before: object = None  # called first


class KittiServer:
    """Serves `files` (bytes by path) on the loopback interface, with ETags and ranges.

    Attributes:
        answers: Per path, how to answer the next GETs; well-behaved afterwards.
        served: Bytes of bodies sent by path, for GET.
        requests: (method, path, request headers, status) in order.
        ranges: Whether ranges are honored.
        validators: Whether ETags are sent.
        if_range: Whether If-Range is honored.
        delay: Seconds before each 64 KiB, to be slow.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, deque[Answer]] = defaultdict(deque)
        self.served: Counter = Counter()
        self.requests: list[tuple[str, str, dict, int]] = []
        self.ranges = self.validators = self.if_range = True
        self.delay = 0.0
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"kitti": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *request: None  # clients that are killed are no news
        self.url = f"http://127.0.0.1:{self._server.server_port}/avg-kitti"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def publish(self, path: str, content: bytes) -> None:
        self.files[f"/avg-kitti/{path}"] = content

    def answer(self, path: str, *answers: Answer) -> None:
        self.answers[f"/avg-kitti/{path}"].extend(answers)

    def sent(self, path: str) -> int:
        return self.served[f"/avg-kitti/{path}"]

    def gets(self, path: str) -> list[tuple[dict, int]]:
        """Return (request headers, status) of the GETs of a path."""
        full = f"/avg-kitti/{path}"
        return [
            (headers, status)
            for method, asked, headers, status in self.requests
            if (method, asked) == ("GET", full)
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kitti: KittiServer

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        content = self.kitti.files.get(self.path)
        self._head(404 if content is None else 200, {"Content-Length": str(len(content or b""))})

    def do_GET(self):
        queue = self.kitti.answers[self.path]
        answer = queue.popleft() if queue else Answer()
        if answer.before:
            answer.before()
        content = self.kitti.files.get(self.path)
        if content is None or answer.status:
            self._head(answer.status or 404, {"Content-Length": "0", **answer.headers})
            return
        etag = f'"{hash(content):x}"'
        headers = {"ETag": etag} if self.kitti.validators else {}
        status, first = 200, 0
        asked = self.headers.get("Range")
        fits = self.headers.get("If-Range", etag) == etag or not self.kitti.if_range
        if asked and self.kitti.ranges and fits:
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self._head(416, {"Content-Length": "0"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        body = content[first:]
        if answer.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body) + answer.more_length)
        self._head(status, headers | answer.headers)
        self._body(body, answer)

    def _head(self, status, headers):
        self.kitti.requests.append((self.command, self.path, dict(self.headers), status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, body, answer):
        limits = [limit for limit in (answer.cut_after, answer.stall_after) if limit is not None]
        end = min([len(body), *limits])
        for start in range(0, end, 1 << 16):
            if self.kitti.closing.wait(self.kitti.delay):
                return
            block = body[start : min(end, start + (1 << 16))]
            framed = b"%x\r\n%b\r\n" % (len(block), block) if answer.chunked else block
            try:
                self.wfile.write(framed)
            except OSError:  # the client went away
                self.close_connection = True
                return
            self.kitti.served[self.path] += len(block)
        if answer.stall_after is not None:
            self.kitti.closing.wait()
        elif answer.chunked and answer.cut_after is None:
            self.wfile.write(b"0\r\n\r\n")
        if limits or answer.more_length:
            self.close_connection = True
