"""Arrays in files: an .npz, or a folder of .npy. Large ones are mapped into memory, not read."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qat.errors import DataError, ExportError
from qat.system.atomic_files import make_folder

log = logging.getLogger("qat")

#: Arrays of more bytes than these are mapped; smaller ones are read, which is quicker, and leaves the file free to be replaced.
MAPPED = 2**26
_CHUNK = 2**22
#: Of the local header before a member of a zip file (APPNOTE.TXT, section 4.3.7): its size, and where the lengths of the name
#: and of the extra field stand in it.
_LOCAL_HEADER, _LENGTHS = 30, 26


class ArrayFiles:
    """The arrays of an ``.npz`` file, or of the ``.npy`` files in a folder, by name.

    Raises:
        DataError: there is no such file or folder, or the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members: Mapping[str, zipfile.ZipInfo | Path]
        if path.is_dir():
            self._members = {p.stem: p for p in path.glob("*.npy")}
            if not self._members:
                raise DataError(f"{path} is a folder without .npy files, not an .npz file")
            return
        if not path.is_file():
            raise DataError(f"no such file: {path}")
        try:
            with zipfile.ZipFile(path) as file:
                self._members = {i.filename.removesuffix(".npy"): i for i in file.infolist()}
        except PermissionError:
            raise  # it is not the file's content
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path} is not a whole .npz file: {error}") from error

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __getitem__(self, name: str) -> np.ndarray:
        """Return an array, mapped where it is large.

        Raises:
            DataError: the file is damaged.
        """
        member = self._members[name]
        try:
            if isinstance(member, Path):
                large = member.stat().st_size > MAPPED
                return np.load(member, mmap_mode="r" if large else None, allow_pickle=False)
            if member.file_size > MAPPED:
                return self._stored(member) if member.compress_type == zipfile.ZIP_STORED else self._unpacked(name, member)
            with np.load(self.path, allow_pickle=False) as file:
                found: np.ndarray = file[name]
                return found
        except (PermissionError, DataError):
            raise
        except (zipfile.BadZipFile, ValueError, EOFError, OSError, zlib.error) as error:
            if "allow_pickle" in str(error):  # NumPy's words for an array of objects
                where = str(member) if isinstance(member, Path) else f"{self.path}, array '{name}'"
                raise DataError(
                    f"{where}: holds Python objects, which are not read: save numbers, for example by array.astype('int64')"
                ) from error
            what = f"{member} is not a whole .npy" if isinstance(member, Path) else f"{self.path} is not a whole .npz"
            raise DataError(f"{what} file: {error}") from error

    def _stored(self, member: zipfile.ZipInfo) -> np.ndarray:
        """Return a member that is not compressed, mapped where it lies in the file."""
        with zipfile.ZipFile(self.path) as file, file.open(member) as content:
            while content.read(_CHUNK):  # compares the check sum, which nothing does once the file is mapped
                pass
        with open(self.path, "rb") as raw:
            raw.seek(member.header_offset + _LENGTHS)
            lengths = np.frombuffer(raw.read(4), "<u2")
            raw.seek(member.header_offset + _LOCAL_HEADER + int(lengths.sum()))
            version = np.lib.format.read_magic(raw)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(raw)
            if dtype.hasobject:
                raise ValueError("objects need allow_pickle, and nothing is unpickled")
            return np.memmap(self.path, dtype, "r", raw.tell(), shape, "F" if fortran else "C")

    def _unpacked(self, name: str, member: zipfile.ZipInfo) -> np.ndarray:
        """Return a compressed member, mapped from its unpacked copy in the user's cache folder, which is made once."""
        from platformdirs import user_cache_dir

        key = f"{self.path.resolve()} {self.path.stat().st_mtime_ns} {name} {member.CRC} {member.file_size}"
        copy = Path(user_cache_dir("qat")) / "arrays" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        if not copy.is_file():
            log.warning(
                "%s: '%s' is compressed, and is unpacked once into %s (%.1f GB); np.savez, without compression, needs no copy",
                self.path, name, copy, member.file_size / 1e9,
            )  # fmt: skip
            try:
                make_folder(copy.parent)
                self._unpack(member, copy)
            except (OSError, ExportError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                raise DataError(
                    f"{self.path}: '{name}' cannot be unpacked into {copy.parent}: {reason}; XDG_CACHE_HOME names another "
                    "folder, and np.savez, without compression, needs none"
                ) from error
        return np.load(copy, mmap_mode="r", allow_pickle=False)

    def _unpack(self, member: zipfile.ZipInfo, copy: Path) -> None:
        partial = copy.with_suffix(f".{os.getpid()}.tmp")
        try:
            with zipfile.ZipFile(self.path) as file, file.open(member) as packed, open(partial, "wb") as out:
                shutil.copyfileobj(packed, out, _CHUNK)
            partial.replace(copy)
        finally:
            partial.unlink(missing_ok=True)
