"""Metadata in a ``.tflite``: a table in a buffer of its own, and the files that the table names in a zip behind the model.

The form is that of https://ai.google.dev/edge/litert/models/metadata: MediaPipe, ML Kit and Android Studio read it, and any zip
tool lists the files.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.exporters.metadata import Metadata, channels_of
from qat.system.zip_entries import read_entries

from .metadata_schema import AXIS_LABELS, COLOR_SPACES, Fields, decode, encode
from .writer import Table

_ENTRY = b"TFLITE_METADATA"
_LABELS = "labels.txt"
_TEXTS = ("name", "description", "version", "author", "license")
#: The lowest version of a reader that knows all that is written here.
_PARSER_VERSION = "1.0.0"
#: Of the files in the zip, so that the same model gives the same bytes.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Attached:
    """Metadata as they lie in a file.

    Attributes:
        table: the flatbuffer of a ``ModelMetadata``.
        files: the files that the table names, by name.
    """

    table: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)


def attached(raw: bytes) -> Attached | None:
    """Return the metadata of a file's bytes, or None."""
    model = schema.Model.GetRootAs(raw)
    entries = (model.Metadata(i) for i in range(model.MetadataLength()))
    found = next((model.Buffers(entry.Buffer()).DataAsNumpy() for entry in entries if entry.Name() == _ENTRY), None)
    if found is None:
        return None
    if not zipfile.is_zipfile(io.BytesIO(raw)):
        return Attached(found.tobytes())
    return Attached(found.tobytes(), {entry.name: entry.content for entry in read_entries(raw, "the .tflite")})


def attach(raw: bytes, metadata: Attached) -> bytes:
    """Return a file's bytes with metadata, which replace those that it has."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw))
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer = _ENTRY, len(model.buffers)
    buffer.data = np.frombuffer(metadata.table, np.uint8)
    model.buffers.append(buffer)
    model.metadata = [other for other in model.metadata or () if other.name != _ENTRY] + [entry]
    builder = flatbuffers.Builder(len(raw))
    builder.Finish(model.Pack(builder), b"TFL3")
    stream = io.BytesIO(builder.Output())
    if metadata.files:
        with zipfile.ZipFile(stream, "a") as archive:  # stored as they are: readers on phones map them into memory
            for name, content in metadata.files.items():
                archive.writestr(zipfile.ZipInfo(name, _NO_DATE), content)
    return stream.getvalue()


def describe(raw: bytes, metadata: Metadata) -> bytes:
    """Return a file's bytes with a description. Labels belong to the outputs that have as many values in their last axis."""
    model: Table = schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw))
    graph, names = model.subgraphs[0], _caller_names(model)
    inputs = [_input(names.get(i) or graph.tensors[i].name.decode(), graph.tensors[i], metadata) for i in graph.inputs]
    outputs = [_output(names.get(i) or graph.tensors[i].name.decode(), graph.tensors[i], metadata) for i in graph.outputs]
    subgraph = {"input_tensor_metadata": inputs, "output_tensor_metadata": outputs}
    texts = {name: text for name in _TEXTS if (text := getattr(metadata, name))}
    table = encode({**texts, "subgraph_metadata": [subgraph], "min_parser_version": _PARSER_VERSION})
    return attach(raw, Attached(table, {_LABELS: "".join(f"{x}\n" for x in metadata.labels).encode()} if metadata.labels else {}))


def read_metadata(raw: bytes) -> Metadata | None:
    """Return the description in a file's bytes: the first labels and the first normalization in it. None without any."""
    found = attached(raw)
    if found is None:
        return None
    table = decode(found.table)
    subgraph: Fields = next(iter(table.get("subgraph_metadata", ())), {})
    units = (unit["options"][1] for unit in _of_each(subgraph, "input_tensor_metadata", "process_units") if "options" in unit)
    normalization: Fields = next(units, {})
    named = (file.get("name", "") for file in _of_each(subgraph, "output_tensor_metadata", "associated_files"))
    labels = next((found.files[name] for name in named if name in found.files), b"")
    return Metadata(
        **{name: table.get(name, "") for name in _TEXTS}, labels=tuple(labels.decode().splitlines()),
        mean=normalization.get("mean"), std=normalization.get("std"),
    )  # fmt: skip


def _of_each(subgraph: Fields, tensors: str, tables: str) -> Iterator[Fields]:
    for tensor in subgraph.get(tensors, ()):
        yield from tensor.get(tables, ())


def _caller_names(model: Table) -> dict[int, str]:
    """Return the names of the first signature, by the index of the tensor."""
    signatures: Sequence[Table] = model.signatureDefs or ()
    return {entry.tensorIndex: entry.name.decode() for s in signatures[:1] for entry in (*s.inputs, *s.outputs)}


def _input(name: str, tensor: Table, metadata: Metadata) -> Fields:
    channels = channels_of(tensor.shape)
    content: tuple[str, Fields] = "FeatureProperties", {}
    if channels is not None:
        height, width = (int(size) for size in tensor.shape[1:3])
        size = {"width": width, "height": height}
        content = "ImageProperties", {"color_space": COLOR_SPACES[channels], "default_size": size}
    fields: dict[str, object] = {"name": name, "content": {"content_properties": content}}
    if metadata.normalization is not None and len(tensor.shape) == 4:
        mean, std = metadata.normalization
        fields["process_units"] = [{"options": ("NormalizationOptions", {"mean": mean, "std": std})}]
    return fields


def _output(name: str, tensor: Table, metadata: Metadata) -> Fields:
    fields: dict[str, object] = {"name": name, "content": {"content_properties": ("FeatureProperties", {})}}
    if metadata.labels and len(tensor.shape) and tensor.shape[-1] == len(metadata.labels):
        fields["associated_files"] = [{"name": _LABELS, "type": AXIS_LABELS}]
    return fields
