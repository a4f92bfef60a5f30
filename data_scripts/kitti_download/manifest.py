"""The record of what arrived: size and SHA-256 of every archive, and what came out of it."""

import hashlib
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

NAME = "download_manifest.json"


class Arrival(BaseModel):
    """One archive that arrived whole and was unpacked."""

    model_config = ConfigDict(extra="forbid")

    url: str
    bytes: int
    sha256: str
    date: datetime
    files: dict[str, int]  # that were extracted, by folder
    notes: list[str]  # what differs from the catalog


class Contents(BaseModel):
    """The manifest file."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    about: str = "KITTI publishes no checksums: each SHA-256 is that of the bytes that arrived."
    archives: dict[str, Arrival] = {}


class DownloadManifest:
    """`download_manifest.json` of a KITTI Raw folder; several threads may record.

    Args:
        root: The KITTI Raw folder; without the file, nothing is recorded yet.

    Raises:
        ValueError: If the file is not a manifest of this schema.
    """

    def __init__(self, root: Path):
        self._path = root / NAME
        self._lock = threading.Lock()
        try:
            self._contents = Contents.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            self._contents = Contents()
        except ValidationError as error:
            raise ValueError(
                f"{self._path} is no download manifest of schema 1 "
                f"({error.errors()[0]['msg']}): move it away; drives that are complete are kept."
            ) from error

    def __getitem__(self, archive: str) -> Arrival | None:
        return self._contents.archives.get(archive)

    def record(
        self, archive: Path, name: str, url: str, files: dict[str, int], notes: tuple[str, ...]
    ) -> None:
        """Add or replace the entry of an archive; the file is replaced as a whole.

        Args:
            archive: The file that arrived; it is read to its end for its SHA-256.
            name: The archive's own name, such as `2011_09_26_drive_0001_sync.zip`.
            url: Where it came from.
            files: How many files were extracted, by folder.
            notes: What differs from the catalog.
        """
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        arrival = Arrival(
            url=url,
            bytes=archive.stat().st_size,
            sha256=digest,
            date=datetime.now(UTC).replace(microsecond=0),
            files=files,
            notes=list(notes),
        )
        with self._lock:
            archives = {**self._contents.archives, name: arrival}
            self._contents = Contents(archives=dict(sorted(archives.items())))
            partial = self._path.with_suffix(".json.partial")
            partial.write_text(self._contents.model_dump_json(indent=1) + "\n")
            partial.replace(self._path)
