"""Batches made by the threads of a tf.data pipeline: Pillow and NumPy decode and resize without Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from qat.system.passes import Key


def made(make: Callable[[Key], Any], keys: Sequence[Key], workers: int) -> Iterator[Any]:
    """Yield the batches of all keys, in order.

    Raises:
        DataError: a batch cannot be made.
    """
    if not keys:
        return
    failed: dict[int, Exception] = {}

    def batch_of(index: int) -> list[Any]:
        try:
            return tf.nest.flatten(make(keys[index]))
        except Exception as error:  # TensorFlow would keep its text alone
            failed[int(index)] = error
            raise

    example = make(replace(keys[0], chosen=keys[0].chosen[:1], mirrored=None))
    types = [tf.as_dtype(x.dtype) for x in tf.nest.flatten(example)]
    pipeline = tf.data.Dataset.range(len(keys)).map(
        tf.autograph.experimental.do_not_convert(lambda index: tf.numpy_function(batch_of, [index], types)),
        num_parallel_calls=workers, deterministic=True,
    )  # fmt: skip
    batches = pipeline.prefetch(1).as_numpy_iterator()
    while True:
        try:
            batch = next(batches, None)
        except tf.errors.OpError as error:
            raise (failed[min(failed)] if failed else error) from None
        if batch is None:
            return
        yield tf.nest.pack_sequence_as(example, list(batch))
