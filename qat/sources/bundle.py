"""MediaPipe's bundles (``.task``): a zip of models and of what goes with them, which may hold further bundles.

MediaPipe maps the entries into memory: they are stored uncompressed, and each one starts at a multiple of four bytes
(``model_asset_bundle_utils.py`` of MediaPipe). It pads before an entry's header; here the padding is an extra field of the
header, as Android's zipalign writes it, so that every zip tool reads the file.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping

from qat.errors import DataError
from qat.system.zip_entries import Entry, read_entries

_ALIGNMENT = 4
#: Of the extra field that holds an alignment and its padding, in Android's APKs.
_ALIGNMENT_FIELD = 0xD935
_HEADER = struct.Struct("<HHH")
_LOCAL_HEADER_BYTES = 30
_BUNDLE, _MODEL = ".task", ".tflite"


def models_of(raw: bytes, where: str) -> dict[str, bytes]:
    """Return the ``.tflite`` files of a bundle by their paths; ``a.task/b.tflite`` lies in the bundle ``a.task`` within it.

    Args:
        raw: the bytes of the bundle.
        where: the bundle's name in messages.

    Raises:
        DataError: the bundle or one within it cannot be read, see :func:`qat.system.zip_entries.read_entries`, or has no model.
    """
    found = dict(_models(raw, where, ""))
    if not found:
        raise DataError(f"{where}: the bundle holds no .tflite, so that there is nothing to quantize")
    return found


def with_models(raw: bytes, models: Mapping[str, bytes], where: str) -> bytes:
    """Return a bundle with other models in the places of its own; every other entry keeps its bytes, its place and its date.

    Args:
        raw: the bytes of the bundle.
        models: the new bytes, by the paths of :func:`models_of`. A model that is not among them stays.
        where: the bundle's name in messages.

    Raises:
        DataError: as :func:`models_of` says, or a path of ``models`` is not in the bundle.
    """
    unknown = sorted(models.keys() - models_of(raw, where).keys())
    if unknown:
        raise DataError(f"{where}: the bundle holds no '{unknown[0]}'")
    return _replaced(raw, models, where, "")


def _models(raw: bytes, where: str, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in read_entries(raw, where):
        path = f"{prefix}{entry.name}"
        if entry.name.endswith(_BUNDLE):
            found += _models(entry.content, f"{where}/{entry.name}", f"{path}/")
        elif entry.name.endswith(_MODEL):
            found.append((path, entry.content))
    return found


def _replaced(raw: bytes, models: Mapping[str, bytes], where: str, prefix: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for entry in read_entries(raw, where):
            path = f"{prefix}{entry.name}"
            content = models.get(path, entry.content)
            if entry.name.endswith(_BUNDLE):
                content = _replaced(entry.content, models, f"{where}/{entry.name}", f"{path}/")
            archive.writestr(_aligned(entry, stream.tell()), content)
    return stream.getvalue()


def _aligned(entry: Entry, offset: int) -> zipfile.ZipInfo:
    """Return the header of an entry that begins at ``offset``, padded so that its content begins at a multiple of four."""
    info = zipfile.ZipInfo(entry.name, entry.date)
    name = entry.name if entry.name.isascii() else entry.name.encode()
    begin = offset + _LOCAL_HEADER_BYTES + len(name) + _HEADER.size
    padding = -begin % _ALIGNMENT
    info.extra = _HEADER.pack(_ALIGNMENT_FIELD, 2 + padding, _ALIGNMENT) + bytes(padding)
    return info
