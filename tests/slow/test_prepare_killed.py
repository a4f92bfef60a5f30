"""Packing, killed at every fifth of its operations on files: the same command ends the same."""

import os
import signal
import sys
import threading

import filelock  # noqa: F401  (a first import would be among the operations)

from ubnlib.kitti import KittiRaw, prepare

OPERATIONS = {
    "mkdir", "open", "flock", "posix_fallocate", "seek", "write", "close", "replace", "rename",
    "fsync", "rmdir", "unlink", "__exit__", "tofile",
}  # fmt: skip


def killed_at(number, work):
    """Do work in a child that kills itself at its n-th operation on files; say whether it did."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    count = 0

    def watch(frame, event, function):
        nonlocal count
        if event == "c_call" and getattr(function, "__name__", "") in OPERATIONS:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        threading.setprofile(watch)
        sys.setprofile(watch)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_at_any_operation_the_same_command_ends_the_same(tiny_kitti, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["ubnlib.kitti.prepare"], "CHUNK", 3)
    raw = KittiRaw(tiny_kitti, size=(12, 36))

    def pack(folder):
        return prepare(raw, folder, workers=1, progress=False)

    undisturbed = content(pack(tmp_path / "undisturbed").folder)
    for number in range(5, 10_000, 5):
        folder = tmp_path / f"killed_{number}"
        if not killed_at(number, lambda folder=folder: pack(folder)):
            break
        assert content(pack(folder).folder) == undisturbed
        assert not (tmp_path / f"killed_{number}.partial").exists()
    assert number > 300
