"""A file on its way: its bytes so far, and beside them what they are bytes of."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError


class Version(BaseModel):
    """Which bytes a partial file holds: those of this version of this URL."""

    url: str
    validator: str | None  # a strong ETag or a date; without one, nothing can be resumed
    size: int | None  # in bytes, where the server tells

    @classmethod
    def of(cls, url: str, headers: Mapping[str, str]) -> "Version":
        """Return the version that the headers of an answer with the whole file tell."""
        etag = headers.get("ETag", "W/")
        weak = etag.startswith("W/")  # it may be the same for other bytes
        length = headers.get("Content-Length", "")
        return cls(
            url=url,
            validator=headers.get("Last-Modified") if weak else etag,
            size=int(length) if length.isdecimal() and len(length) < 20 else None,
        )


class Partial:
    """A file on its way: `NAME.part`, and its `Version` in `NAME.part.json`."""

    def __init__(self, final: Path):
        self.path = final.with_name(f"{final.name}.part")
        self._sidecar = final.with_name(f"{final.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> Version | None:
        """Return what the bytes are of; None if that is unknown."""
        try:
            return Version.model_validate_json(self._sidecar.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def start(self, version: Version) -> None:
        """Throw the bytes away and note what the next ones are of."""
        self.path.write_bytes(b"")  # before the note, so that old bytes never get a new name
        self.note(version)

    def note(self, version: Version) -> None:
        """Write down what the bytes are of, whole or not at all."""
        temporary = self._sidecar.with_suffix(".tmp")
        temporary.write_text(version.model_dump_json())
        temporary.replace(self._sidecar)

    def is_complete(self, url: str) -> bool:
        """Return whether all bytes of the URL are here."""
        version = self.version()
        return version is not None and (version.url, version.size) == (url, self.size)

    def resumable(self, url: str) -> Version | None:
        """Return the version whose rest can be asked for; None if all must be fetched anew."""
        version = self.version()
        if version is None or version.url != url or not version.validator:
            return None
        return version if 0 < self.size < (version.size or 0) else None

    def discard(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self._sidecar.unlink(missing_ok=True)
