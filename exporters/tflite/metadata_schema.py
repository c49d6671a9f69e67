"""The tables of TFLite's metadata, and the flatbuffer that holds them.

LiteRT ships no code for them. Fields, numbers and types are those of metadata_schema.fbs, version 1.1.0
(https://github.com/tensorflow/tflite-support/blob/master/tensorflow_lite_support/metadata/metadata_schema.fbs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
from flatbuffers.table import Table

from qat.errors import DataError

#: What marks the flatbuffer, in the place of a file identifier.
IDENTIFIER = b"M001"

#: AssociatedFileType: the names of the classes along an output's axis.
AXIS_LABELS = 2

#: ColorSpaceType, by the number of channels: gray, RGB.
COLOR_SPACES = {1: 2, 3: 1}

#: The fields of each table, in the schema's order, as far as they are written or read here.
_TABLES = {
    "ModelMetadata": "name:string description:string version:string subgraph_metadata:[SubGraphMetadata] author:string "
    "license:string associated_files:[AssociatedFile] min_parser_version:string",
    "SubGraphMetadata": "name:string description:string input_tensor_metadata:[TensorMetadata] "
    "output_tensor_metadata:[TensorMetadata] associated_files:[AssociatedFile]",
    "TensorMetadata": "name:string description:string dimension_names:[string] content:Content process_units:[ProcessUnit] "
    "stats:Stats associated_files:[AssociatedFile]",
    "AssociatedFile": "name:string description:string type:byte locale:string",
    "Content": "content_properties:ContentProperties",
    "FeatureProperties": "",
    "ImageProperties": "color_space:byte default_size:ImageSize",
    "ImageSize": "width:uint height:uint",
    "ProcessUnit": "options:ProcessUnitOptions",
    "NormalizationOptions": "mean:[float] std:[float]",
    "Stats": "max:[float] min:[float]",
}
#: The members of each union, from 1. The schema has more, which are neither written nor read here.
_UNIONS = {
    "ContentProperties": {1: "FeatureProperties", 2: "ImageProperties"},
    "ProcessUnitOptions": {1: "NormalizationOptions"},
}

#: The fields of a table by name: text, a number, a list of numbers, a table, a list of tables. A member of a union is a pair of
#: its table's name and its fields.
Fields: TypeAlias = Mapping[str, Any]


def encode(root: Fields) -> bytes:
    """Return the flatbuffer of a ``ModelMetadata``."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, "ModelMetadata", root), IDENTIFIER)
    return bytes(builder.Output())


def decode(raw: bytes) -> Fields:
    """Return the ``ModelMetadata`` of a flatbuffer.

    Raises:
        DataError: the bytes are marked as something else.
    """
    if raw[4:8] != IDENTIFIER:
        raise DataError(f"the metadata are marked {raw[4:8]!r} instead of {IDENTIFIER!r}: they are damaged, or of another schema")
    return _read(Table(raw, int.from_bytes(raw[:4], "little")), "ModelMetadata")


def _numbered(table: str) -> Iterator[tuple[int, str, str]]:
    """Yield the number, the name and the type of each field. A union takes two numbers: its member's, then its own."""
    number = 0
    for entry in _TABLES[table].split():
        name, _, kind = entry.partition(":")
        number += kind in _UNIONS
        yield number, name, kind
        number += 1


def _write(builder: Any, table: str, fields: Fields) -> int:
    """Write a table behind everything that it refers to, as flatbuffers demand, and return its place."""
    slots: list[tuple[int, str, int]] = []
    for number, name, kind in _numbered(table):
        if name not in fields:
            continue
        value = fields[name]
        if kind in _UNIONS:
            member = next(index for index, of in _UNIONS[kind].items() if of == value[0])
            slots += [(number - 1, "byte", member), (number, "offset", _write(builder, *value))]
        elif kind in ("byte", "uint"):
            slots.append((number, kind, value))
        else:
            slots.append((number, "offset", _write_child(builder, kind, value)))
    builder.StartObject(max((number for number, _, _ in _numbered(table)), default=-1) + 1)
    put = {"byte": builder.PrependByteSlot, "uint": builder.PrependUint32Slot, "offset": builder.PrependUOffsetTRelativeSlot}
    for number, kind, value in slots:
        put[kind](number, value, 0)
    return int(builder.EndObject())


def _write_child(builder: Any, kind: str, value: Any) -> int:
    if kind == "string":
        return int(builder.CreateString(value))
    if kind == "[float]":
        return int(builder.CreateNumpyVector(np.asarray(value, np.float32)))
    if not kind.startswith("["):
        return _write(builder, kind, value)
    places = [_write_child(builder, kind[1:-1], item) for item in value]
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return int(builder.EndVector())


def _read(table: Table, name: str) -> Fields:
    found: dict[str, Any] = {}
    for number, field, kind in _numbered(name):
        place = table.Offset(4 + 2 * number)
        if not place:
            continue
        if kind in _UNIONS:
            member = _UNIONS[kind].get(_scalar(table, table.Offset(2 + 2 * number), 1))
            if member is not None:
                inner = Table(bytearray(), 0)
                table.Union(inner, place)
                found[field] = member, _read(inner, member)
        elif kind in ("byte", "uint"):
            found[field] = _scalar(table, place, 1 if kind == "byte" else 4)
        elif kind == "[float]":
            start, count = table.Vector(place), table.VectorLen(place)
            found[field] = np.frombuffer(table.Bytes, "<f4", count, start).tolist()
        elif kind.startswith("["):
            start, count = table.Vector(place), table.VectorLen(place)
            found[field] = [_read_child(table, kind[1:-1], start + 4 * i) for i in range(count)]
        else:
            found[field] = _read_child(table, kind, table.Pos + place)
    return found


def _read_child(table: Table, kind: str, place: int) -> Any:
    if kind == "string":
        return table.String(place).decode()
    return _read(Table(table.Bytes, table.Indirect(place)), kind)


def _scalar(table: Table, place: int, size: int) -> int:
    start = table.Pos + place
    return int.from_bytes(table.Bytes[start : start + size], "little")
