"""Several replicas that train one model together, where it was prepared in the scope of a ``tf.distribute`` strategy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from qat.errors import ConfigError

_ABLE = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy, tf.distribute.OneDeviceStrategy)


class Replicas:
    """The replicas that average their gradients: the devices of this process, and those of the other processes.

    A batch is this process's; its devices share it. Without a strategy there is one replica.

    Attributes:
        size: of all processes together.
        local: of this process.
        first: whether this process writes files.
    """

    def __init__(self, model: Any) -> None:
        self.strategy = model.distribute_strategy
        self.size = int(self.strategy.num_replicas_in_sync)
        self.local = len(self.strategy.extended.worker_devices) if self.size > 1 else 1
        self.first = bool(self.strategy.extended.should_checkpoint)
        self._sum = tf.function(lambda flag: self.strategy.run(all_sum, (flag,)))
        self._check(model)

    def _check(self, model: Any) -> None:
        if self.size == 1:
            return
        name = type(self.strategy).__name__
        if not isinstance(self.strategy, _ABLE):
            raise ConfigError(f"{name} is not supported: use tf.distribute.MirroredStrategy or MultiWorkerMirroredStrategy")
        within = self.strategy.extended.variable_created_in_scope
        if not all(within(getattr(v, "value", v) if hasattr(v, "path") else v) for v in model.trainable_variables):
            raise ConfigError(
                f"the model was made outside the scope of the {name}: call qat.prepare within 'with strategy.scope():', so that "
                "every replica holds its variables"
            )

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in every replica, on its part of what :meth:`split` made, and return its results' parts."""
        return self.strategy.run(function, args)

    def split(self, batch: Any, samples: int) -> Any:
        """Return nested tensors, a part for each replica of this process. One that gets no sample takes the first, see shares."""
        tensors = tf.nest.map_structure(tf.convert_to_tensor, batch)
        if self.local == 1:
            return tensors
        limits = self._limits(samples)
        part = lambda i: tf.nest.map_structure(lambda t: t[slice(*limits[i])] if _size(limits[i]) else t[:1], tensors)  # noqa: E731
        return self._distribute(part)

    def shares(self, samples: int, share: float) -> Any:
        """Return each replica's share in the loss: of the samples in this process's batch, all processes counting alike."""
        if self.size == 1:
            return tf.constant(share, tf.float32)
        shares = [share * _size(part) / samples * self.local / self.size for part in self._limits(samples)]
        return self._distribute(lambda i: tf.constant(shares[i], tf.float32))

    def gathered(self, outputs: Any, samples: int) -> Any:
        """Return nested arrays of the whole batch, joined from the outputs of the replicas."""
        sizes = [_size(part) for part in self._limits(samples)]
        join = lambda *parts: np.concatenate([np.asarray(p)[:n] for p, n in zip(parts, sizes, strict=True)])  # noqa: E731
        return tf.nest.map_structure(join, *self._results(outputs))

    def value(self, scalar: Any) -> float:
        """Return a scalar that is the same in all replicas."""
        return float(self.strategy.experimental_local_results(scalar)[0])

    def mean_of(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return metrics' means over the processes, which then choose the same best epoch."""
        if self.size == self.local:
            return metrics
        return {name: self.value(self._sum(tf.constant(value, tf.float32))) / self.size for name, value in metrics.items()}

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return flag if self.size == self.local else self.value(self._sum(tf.constant(float(flag)))) > 0

    def _limits(self, samples: int) -> list[tuple[int, int]]:
        edges = [round(samples * i / self.local) for i in range(self.local + 1)]
        return list(itertools.pairwise(edges))

    def _distribute(self, part: Callable[[int], Any]) -> Any:
        function = lambda context: part(context.replica_id_in_sync_group % self.local)  # noqa: E731
        return self.strategy.experimental_distribute_values_from_function(function)

    def _results(self, outputs: Any) -> list[Any]:
        """Return the replicas' own outputs."""
        flat = [self.strategy.experimental_local_results(value) for value in tf.nest.flatten(outputs)]
        return [tf.nest.pack_sequence_as(outputs, [values[i] for values in flat]) for i in range(self.local)]


def all_sum(values: Any) -> Any:
    """Return nested tensors' sums over all replicas; called in each of them."""
    placed = tf.nest.map_structure(tf.identity, values)  # on this replica's device, which a function's argument is not
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, placed)


def _size(limits: tuple[int, int]) -> int:
    return limits[1] - limits[0]
