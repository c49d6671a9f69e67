"""Reading a zip that a stranger made: its entries are read into memory, never unpacked into a folder."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from qat.errors import DataError, reason_of

#: The most bytes that all entries of a zip may have together: models for phones and their texts are far smaller.
LIMIT = 4 << 30
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Entry:
    """A file in a zip.

    Attributes:
        name: its path in the zip, with ``/``.
        content: its bytes.
        date: when it was changed last, as the zip says.
    """

    name: str
    content: bytes
    date: tuple[int, int, int, int, int, int]


def read_entries(raw: bytes, where: str, limit: int = LIMIT) -> list[Entry]:
    """Return the entries of a zip in their order, without its folders. The zip may follow other bytes.

    Args:
        raw: the bytes of the file.
        where: the file's name in messages.
        limit: the most bytes that the entries may have together.

    Raises:
        DataError: the zip is damaged, is encrypted, names an entry twice or outside its folder, or its entries have more than
            ``limit`` bytes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return list(_entries(archive, where, limit))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OverflowError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: its zip cannot be read: {reason_of(error)}; get the file again") from error


def _entries(archive: zipfile.ZipFile, where: str, limit: int) -> Iterator[Entry]:
    seen: set[str] = set()
    total = 0
    for info in archive.infolist():
        name = info.filename
        if name.endswith("/"):
            continue
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.name:
            raise DataError(f"{where}: its zip names '{name}', a path outside the zip: the file is not to be trusted")
        if name in seen:
            raise DataError(f"{where}: its zip holds '{name}' twice, and readers would take one or the other: write it anew")
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"{where}: '{name}' in its zip is encrypted: decrypt the file first")
        seen.add(name)
        total += info.file_size
        if total > limit:
            raise DataError(f"{where}: the entries of its zip have more than {limit} bytes together, up to '{name}'")
        with archive.open(info) as stream:
            # The header may lie about the size: no more than it says is ever read.
            content = stream.read(info.file_size + 1)
        if len(content) != info.file_size:
            raise DataError(f"{where}: '{name}' in its zip has another size than the zip says: get the file again")
        yield Entry(name, content, info.date_time)
