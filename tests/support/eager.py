"""Keras without tracing: for few steps of a small net a trace costs more than the steps."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def eagerly(framework: str = "keras") -> Iterator[None]:
    """Run the functions of TensorFlow as they are written, where ``framework`` is Keras."""
    if framework != "keras":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
