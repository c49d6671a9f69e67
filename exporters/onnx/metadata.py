"""Metadata in an ``.onnx``: the model's ``doc_string``, and ``metadata_props``, which ONNX Runtime's ``get_modelmeta()`` returns.

ONNX names ``model_author`` and ``model_license`` (https://onnx.ai/onnx/repo-docs/IR.html#optional-metadata); for the rest it has
no form. ``labels`` is a JSON list, and so are ``mean`` and ``std``.
"""

from __future__ import annotations

import json
from typing import Any

import onnx

from qat.exporters.metadata import Metadata

_TEXTS = {"model_name": "name", "model_version": "version", "model_author": "author", "model_license": "license"}


def describe(raw: bytes, metadata: Metadata) -> bytes:
    """Return a file's bytes with a description."""
    model = onnx.load_from_string(raw)
    props = {key: getattr(metadata, name) for key, name in _TEXTS.items()}
    if metadata.labels:
        props["labels"] = json.dumps(list(metadata.labels), ensure_ascii=False)
    if metadata.normalization is not None:
        props |= {key: json.dumps(numbers) for key, numbers in zip(("mean", "std"), metadata.normalization, strict=True)}
    model.doc_string = metadata.description
    onnx.helper.set_model_props(model, {key: text for key, text in props.items() if text})
    return bytes(model.SerializeToString())


def read_metadata(raw: bytes) -> Metadata | None:
    """Return the description in a file's bytes, or None."""
    model = onnx.load_from_string(raw)
    props = {entry.key: entry.value for entry in model.metadata_props}
    found = Metadata(
        description=model.doc_string, **{name: props.get(key, "") for key, name in _TEXTS.items()},
        labels=_list(props, "labels") or (), mean=_list(props, "mean"), std=_list(props, "std"),
    )  # fmt: skip
    return None if found == Metadata() else found


def _list(props: dict[str, str], key: str) -> tuple[Any, ...] | None:
    """Return a list that :func:`describe` wrote; None where another tool gave the key another form."""
    try:
        found = json.loads(props.get(key, ""))
    except ValueError:
        return None
    return tuple(found) if isinstance(found, list) else None
