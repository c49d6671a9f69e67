"""Batches made by the threads of a tf.data pipeline: Pillow and NumPy decode and resize without Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from .dataset import Arrays, Key


def made(make: Callable[[Key], Arrays], keys: Sequence[Key], workers: int) -> Iterator[Arrays]:
    """Yield the batches of all keys, in order.

    Raises:
        DataError: a batch cannot be made.
    """
    if not keys:
        return
    failed: dict[int, Exception] = {}

    def batch_of(index: int) -> Arrays:
        try:
            return make(keys[index])
        except Exception as error:  # TensorFlow would keep its text alone
            failed[int(index)] = error
            raise

    types = [tf.as_dtype(x.dtype) for x in make((keys[0][0][:1], None))]
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
        yield tuple(batch)
