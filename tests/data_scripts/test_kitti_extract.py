"""Unpacking: what must arrive arrives, what could do harm is refused as a whole."""

import io
import stat
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitti_download import archive as archives
from kitti_download.archive import ArchiveError, open_archive
from kitti_download.catalog import choose_drives
from kitti_download.extract import unpack_calibration, unpack_drive
from kitti_server import calibration_files, drive_files, kept_files, zip_of
from ubnlib.kitti.raw import find_drives

(DRIVE,) = choose_drives(["2011_09_26_drive_0048"])
(LACKING,) = choose_drives(["2011_09_26_drive_0009"])
TOP = "2011_09_26/2011_09_26_drive_0048_sync/"
COUNTS = {"image_02": 22, "image_03": 22, "velodyne_points": 22}
FILES = drive_files(DRIVE)
ARCHIVE = zip_of(FILES)


def on_disk(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def saved(tmp_path, content):
    path = tmp_path / "archive.zip"
    path.write_bytes(content)
    return path


def test_what_is_needed_arrives_byte_by_byte_and_nothing_else(tmp_path):
    root = tmp_path / "kitti"
    unpacked = unpack_drive(saved(tmp_path, ARCHIVE), root, DRIVE)
    assert (unpacked.counts, unpacked.notes) == (COUNTS, ())
    with pytest.raises(ValueError, match="holds no drive"):
        find_drives(root)  # nothing looks like a drive before it is in place
    unpacked.put_in_place()
    assert on_disk(root) == kept_files(FILES)
    assert list(find_drives(root)) == [DRIVE.name]
    assert [path.name for path in (root / DRIVE.date).iterdir()] == [f"{DRIVE.name}_sync"]


def test_entries_for_folders_are_no_fault(tmp_path):
    parts = (TOP + "image_02/data").split("/")
    folders = {"/".join(parts[:depth]) + "/": b"" for depth in range(1, len(parts) + 1)}
    unpack_drive(saved(tmp_path, zip_of(folders | FILES)), tmp_path, DRIVE).put_in_place()
    assert on_disk(tmp_path / DRIVE.date) == {
        name.removeprefix("2011_09_26/"): content for name, content in kept_files(FILES).items()
    }


def test_leftovers_of_a_killed_run_do_not_get_in(tmp_path):
    left = tmp_path / DRIVE.date / f".{DRIVE.name}_sync.partial/image_02/data/0000000099.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    unpack_drive(saved(tmp_path, ARCHIVE), tmp_path, DRIVE).put_in_place()
    assert on_disk(tmp_path / DRIVE.date / f"{DRIVE.name}_sync").keys() == {
        name.removeprefix(TOP) for name in kept_files(FILES)
    }


def test_calibration_arrives(tmp_path):
    files = calibration_files(DRIVE.date)
    unpacked = unpack_calibration(saved(tmp_path, zip_of(files)), tmp_path / "kitti", DRIVE.date)
    assert on_disk(tmp_path / "kitti" / DRIVE.date / f".{DRIVE.date}_calib.partial")
    unpacked.put_in_place()
    assert on_disk(tmp_path / "kitti") == files


def test_a_calibration_archive_must_hold_what_a_projection_needs(tmp_path):
    files = calibration_files(DRIVE.date)
    del files["2011_09_26/calib_velo_to_cam.txt"]
    with pytest.raises(ArchiveError, match=r"lacks calib_velo_to_cam\.txt"):
        unpack_calibration(saved(tmp_path, zip_of(files)), tmp_path / "kitti", DRIVE.date)
    assert on_disk(tmp_path / "kitti") == {}


def test_other_numbers_of_files_are_said(tmp_path):
    files = drive_files(DRIVE, scans=range(20))
    del files[f"{TOP}image_03/data/0000000021.png"]
    unpacked = unpack_drive(saved(tmp_path, zip_of(files)), tmp_path, DRIVE)
    assert unpacked.counts == {"image_02": 22, "image_03": 21, "velodyne_points": 20}
    assert unpacked.notes == (
        "2011_09_26_drive_0048 holds 21 files in image_03; 22 were expected.",
        "2011_09_26_drive_0048 holds 20 files in velodyne_points; 22 were expected.",
    )


def test_the_scans_that_kitti_lacks_are_no_difference(tmp_path):
    scans = [frame for frame in range(447) if not 177 <= frame <= 180]
    files = drive_files(LACKING, size=20, scans=scans)
    unpacked = unpack_drive(saved(tmp_path, zip_of(files)), tmp_path, LACKING)
    assert (unpacked.counts["velodyne_points"], unpacked.notes) == (443, ())


def test_unpacking_can_be_stopped(tmp_path):
    class Enough(Exception):
        pass

    def check():
        if sum(path.is_file() for path in (tmp_path / "kitti").rglob("*")) == 5:
            raise Enough

    with pytest.raises(Enough):
        unpack_drive(saved(tmp_path, ARCHIVE), tmp_path / "kitti", DRIVE, check=check)
    assert on_disk(tmp_path / "kitti") == {}


# --- archives that are refused ------------------------------------------------------------------


def with_member(name, content=b"x", *, mode=0o644, **fields):
    """Return a drive's archive with one more member, whose fields are set as told."""
    buffer = io.BytesIO(ARCHIVE)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as zipped:
        member = zipfile.ZipInfo(name)
        member.external_attr = (stat.S_IFREG | mode if not stat.S_IFMT(mode) else mode) << 16
        zipped.writestr(member, content)
        for field, value in fields.items():  # written to the directory, not before the content
            setattr(member, field, value)
    return buffer.getvalue()


def renamed(name, stored):
    """Return an archive with a member's name replaced in its bytes: zipfile writes no such name."""
    return with_member(name).replace(name.encode(), stored)


def repeated(name):
    with pytest.warns(UserWarning, match="Duplicate name"):
        return with_member(name)


def displaced():
    """Return an archive whose directory puts the first member before the file's first byte."""
    offset = int.from_bytes(ARCHIVE[-6:-2], "little") + 1
    return ARCHIVE[:-6] + offset.to_bytes(4, "little") + ARCHIVE[-2:]


def bomb():
    """Return a small archive of a drive that grows a thousandfold."""
    return zip_of({f"{TOP}image_02/data/{frame:010d}.png": bytes(1 << 20) for frame in range(22)})


IMAGE = f"{TOP}image_02/data/0000000000.png"
NEW = f"{TOP}image_02/data/0000000022.png"
HOSTILE = {
    "absolute": (lambda: with_member("/etc/cron.d/evil"), "absolute or climbing"),
    "climbing": (lambda: with_member(f"{TOP}../../../evil"), "absolute or climbing"),
    "climbing at the end": (lambda: with_member(f"{TOP}image_02/.."), "absolute or climbing"),
    "dot": (lambda: with_member(f"{TOP}./image_02/x"), "absolute or climbing"),
    "empty part": (lambda: with_member(f"{TOP}image_02//x"), "absolute or climbing"),
    "backslash": (lambda: with_member(f"{TOP}..\\..\\evil"), "backslash"),
    "drive letter": (lambda: with_member("C:/evil"), "colon"),
    "null": (lambda: renamed(f"{TOP}a!b", f"{TOP}a\0b".encode()), "control character"),
    "line break": (lambda: with_member(f"{TOP}a\nb"), "control character"),
    "other drive": (lambda: with_member(f"{TOP.replace('0048', '0049')}x"), "lies outside"),
    "beside": (lambda: with_member("2011_09_26/calib_cam_to_cam.txt"), "lies outside"),
    "other date": (lambda: with_member("2011_09_28/x"), "lies outside"),
    "file for a folder": (lambda: with_member("2011_09_26"), "lies outside"),
    "link": (lambda: with_member(NEW, b"/etc/passwd", mode=stat.S_IFLNK | 0o777), "is a link"),
    "device": (lambda: with_member(NEW, mode=stat.S_IFBLK | 0o644), "special file"),
    "pipe": (lambda: with_member(NEW, mode=stat.S_IFIFO | 0o644), "special file"),
    "twice": (lambda: repeated(IMAGE), "more than once"),
    "twice but for case": (lambda: with_member(IMAGE.replace("png", "PNG")), "more than once"),
    "file and folder": (lambda: with_member(f"{IMAGE}/"), "more than once"),
    "encrypted": (lambda: with_member(NEW, flag_bits=1), "encrypted"),
    "strongly encrypted": (lambda: with_member(NEW, flag_bits=0x40), "encrypted"),
    "unknown compression": (lambda: with_member(NEW, compress_type=zipfile.ZIP_LZMA), "KITTI"),
    "declared huge": (lambda: with_member(NEW, file_size=(1 << 26) + 1), "are the limit"),
    "bomb": (bomb, "23,068,672 bytes unpacked"),
    "more than declared": (lambda: with_member(NEW, b"abcd", file_size=2), "another size"),
    "less than declared": (lambda: with_member(NEW, b"abcd", file_size=9), "another size"),
    "wrong checksum": (lambda: with_member(NEW, b"abcd", CRC=7), "damaged .*CRC"),
    "other name inside": (lambda: with_member(NEW, filename=f"{NEW[:-5]}3.png"), "differ"),
    "before its start": (displaced, "is damaged .*Invalid argument"),
    "no archive": (lambda: b"<html>log in to the network</html>", "no zip archive"),
    "nothing": (lambda: b"", "no zip archive"),
    "no members": (lambda: zip_of({}), "holds no image"),
    "other files": (lambda: zip_of({f"{TOP}oxts/dataformat.txt": b"x"}), "holds no image"),
    "cut short": (lambda: ARCHIVE[: len(ARCHIVE) // 2], "no zip archive"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_or_damaged_archive_is_refused_as_a_whole(tmp_path, kind):
    make, message = HOSTILE[kind]
    archive, root = saved(tmp_path, make()), tmp_path / "deep" / "kitti"
    with pytest.raises(ArchiveError, match=message):
        unpack_drive(archive, root, DRIVE).put_in_place()
    assert on_disk(tmp_path) == {"archive.zip": archive.read_bytes()}


def test_more_bytes_than_declared_do_not_get_out_of_a_compressed_member(tmp_path):
    content = bytes(range(256)) * 4
    short = {"file_size": 10, "CRC": zlib.crc32(content[:10])}  # a forged checksum, too
    buffer = io.BytesIO(ARCHIVE)
    with zipfile.ZipFile(buffer, "a") as zipped:
        member = zipfile.ZipInfo(NEW)
        member.compress_type = zipfile.ZIP_DEFLATED
        zipped.writestr(member, content)
        for field, value in short.items():
            setattr(member, field, value)
    unpacked = unpack_drive(saved(tmp_path, buffer.getvalue()), tmp_path, DRIVE)
    assert unpacked.counts["image_02"] == 23
    assert (unpacked.folder / NEW.removeprefix(TOP)).stat().st_size == 10


def test_a_whole_archive_may_not_be_larger_than_its_drive_can_be(tmp_path):
    archive = saved(tmp_path, ARCHIVE)
    total = sum(map(len, FILES.values()))
    open_archive(archive, TOP, total).close()
    with pytest.raises(
        ArchiveError, match=f"{total:,} bytes unpacked, {total - 1:,} are the limit"
    ):
        open_archive(archive, TOP, total - 1)


def test_the_number_of_members_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MOST_MEMBERS", len(FILES) - 1)
    with pytest.raises(ArchiveError, match=f"holds {len(FILES)} members"):
        open_archive(saved(tmp_path, ARCHIVE), TOP, 1 << 30)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_is_noticed_or_does_not_matter(tmp_path_factory, data):
    files = {name: FILES[name][:40] for name in list(kept_files(FILES))[:4]}
    changed = bytearray(zip_of(files))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(changed) - 1))
        changed[position] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        unpack_drive(saved(folder, bytes(changed)), folder / "kitti", DRIVE).put_in_place()
    except ArchiveError:
        assert on_disk(folder / "kitti") == {}
    else:
        assert on_disk(folder / "kitti").items() <= files.items()


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_are_no_archive(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.raises(ArchiveError):
        unpack_drive(saved(folder, content), folder / "kitti", DRIVE)


def test_a_file_in_the_way_is_an_error_of_the_system(tmp_path):
    (tmp_path / DRIVE.date).write_bytes(b"")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        unpack_drive(saved(tmp_path, ARCHIVE), tmp_path, DRIVE)
