"""A local server of KITTI-like archives that can be told to misbehave, and the archives."""

import io
import threading
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from kitti_drives import Drive


def zip_of(members: dict[str, bytes], compression=zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


def drive_files(drive: Drive, size: int = 2000) -> dict[str, bytes]:
    """Return the files of a drive's archive, by their names in it, as KITTI lays them out."""
    generator = np.random.default_rng(drive.frames)
    top = f"{drive.date}/{drive.name}_sync/"
    files = {f"{top}oxts/dataformat.txt": b"lat: latitude"}
    for sensor in ("image_00", "image_01", "image_02", "image_03", "velodyne_points"):
        files[f"{top}{sensor}/timestamps.txt"] = b"2011-09-26 13:02:25\n" * drive.frames
        suffix, frames = ("bin", drive.scans) if sensor == "velodyne_points" else ("png", None)
        for frame in range(frames or drive.frames):
            files[f"{top}{sensor}/data/{frame:010d}.{suffix}"] = generator.bytes(size)
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
    cut_after: int | None = None  # bytes of the body, then the connection closes
    stall_after: int | None = None  # bytes of the body, then silence
    headers: dict[str, str] = field(default_factory=dict)


class KittiServer:
    """Serves `files` (bytes by path) on the loopback interface; `answers` come first, each once.

    `sent` counts the bytes of bodies by path, `statuses` lists what was answered to GETs. Without
    `ranges` the server sends all whatever was asked for.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, list[Answer]] = defaultdict(list)
        self.sent: Counter = Counter()
        self.statuses: dict[str, list[int]] = defaultdict(list)
        self.ranges = True
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"kitti": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.handle_error = lambda *request: None  # clients that are killed are no news
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kitti: KittiServer

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        path = self.path.removeprefix("/")
        answer = self.kitti.answers[path].pop(0) if self.kitti.answers[path] else Answer()
        content = self.kitti.files.get(path)
        if content is None or answer.status:
            self._head(path, answer.status or 404, {"Content-Length": "0"})
            return
        first, headers = 0, {}
        if (asked := self.headers.get("Range")) and self.kitti.ranges:
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self._head(path, 416, {"Content-Length": "0"})
                return
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        headers["Content-Length"] = str(len(content) - first)
        self._head(path, 206 if headers.get("Content-Range") else 200, headers | answer.headers)
        limits = [n for n in (answer.cut_after, answer.stall_after) if n is not None]
        end = min([len(content), *(first + n for n in limits)])
        for start in range(first, end, 1 << 16):
            block = content[start : min(end, start + (1 << 16))]
            self.wfile.write(block)
            self.kitti.sent[path] += len(block)
        if answer.stall_after is not None:
            self.kitti.closing.wait()
        self.close_connection = bool(limits)

    def _head(self, path, status, headers):
        self.kitti.statuses[path].append(status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
