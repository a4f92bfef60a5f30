"""Open a zip archive that is not trusted: what could do harm or cannot be right is refused."""

import errno
import stat
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    IndexError,
    OverflowError,
    NotImplementedError,
)
# A real archive grows by a tenth, its largest file has 2 MB, and the longest drive 31,000 files.
_LARGEST_GROWTH = 20
_LARGEST_FILE = 64 << 20
_MOST_MEMBERS = 200_000
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags: encrypted, strongly, the directory too


class ArchiveError(ValueError):
    """An archive is damaged or holds what it must not."""


def is_damage(error: BaseException) -> bool:
    """Return whether zipfile raised this for a damaged archive, not for a disk or a signal."""
    outside = isinstance(error, OSError) and error.errno == errno.EINVAL  # seeks before the start
    return outside or isinstance(error, _DAMAGE)


def open_archive(archive: Path, inside: str, largest: int) -> zipfile.ZipFile:
    """Open an archive and refuse it for whatever its directory says wrong.

    Refused are names that are absolute, climb (`..`) or hold backslashes, colons or control
    characters; names outside a folder and names that occur twice; links and other special files;
    encrypted members; and sizes, numbers or growth far beyond what KITTI publishes. Checksums are
    compared only when a member is read to its end.

    Args:
        archive: The file.
        inside: The folder that must hold all members, such as `"2011_09_26/"`.
        largest: Bytes that all members may have together.

    Raises:
        ArchiveError: If the archive is refused, or is no zip archive.
        OSError: If the file cannot be read.
    """
    try:
        zipped = zipfile.ZipFile(archive)
    except Exception as error:
        if is_damage(error):
            raise ArchiveError(f"{archive} is damaged or no zip archive ({error}).") from error
        raise
    try:
        largest = min(largest, _LARGEST_GROWTH * archive.stat().st_size)
        if fault := _fault(zipped.infolist(), inside, largest):
            raise ArchiveError(f"{archive} is refused: {fault}.")
    except BaseException:
        zipped.close()
        raise
    return zipped


def _fault(members: list[zipfile.ZipInfo], inside: str, largest: int) -> str | None:
    """Return why an archive must not be unpacked; None if nothing speaks against it."""
    if len(members) > _MOST_MEMBERS:
        return f"it holds {len(members):,} members, {_MOST_MEMBERS:,} are the limit"
    for member in members:
        if fault := _member_fault(member, inside):
            return f"its member {member.orig_filename[:200]!r} {fault}"
    # Without regard to case, as some file systems
    names = Counter(member.filename.rstrip("/").casefold() for member in members)
    if twice := [name for name, count in names.items() if count > 1]:
        return f"it holds {twice[0][:200]!r} more than once"
    total = sum(member.file_size for member in members)
    return (
        f"it has {total:,} bytes unpacked, {largest:,} are the limit" if total > largest else None
    )


def _member_fault(member: zipfile.ZipInfo, inside: str) -> str | None:
    """Return why one member must not be unpacked."""
    name = member.orig_filename  # as stored: zipfile repairs some
    stored = member.compress_type == zipfile.ZIP_STORED
    if any(character in "\\:" or not character.isprintable() for character in name):
        return "has a backslash, a colon or a control character in its name"
    if not {"", ".", ".."}.isdisjoint(name.removesuffix("/").split("/")):
        return "has an absolute or climbing name"
    if not (name.startswith(inside) or (name.endswith("/") and inside.startswith(name))):
        return f"lies outside {inside}"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or another special file"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if not stored and member.compress_type != zipfile.ZIP_DEFLATED:
        return "is compressed in a way that KITTI does not use"
    if member.file_size > _LARGEST_FILE:
        return f"has {member.file_size:,} bytes, {_LARGEST_FILE:,} are the limit"
    if stored and member.compress_size != member.file_size:
        return "has another size than it says"
    return None
