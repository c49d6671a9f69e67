"""The types of the public calls, for annotations: no framework is imported, and models and arrays of each of them fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:
    from qat.arithmetic.simulation import Simulation
    from qat.planning.blocks import Block
    from qat.planning.plan import Group, Plan
    from qat.planning.recipe import Recipe
    from qat.planning.rounding import Variant
    from qat.planning.targets import Target
    from qat.program.program import Program

    from .arithmetic.encoding import Encoding
    from .graph.graph import Graph
    from .graph.training_acts import TrainingAct


class Array(Protocol):
    """An array of NumPy, or a tensor of PyTorch or TensorFlow."""

    @property
    def shape(self) -> Any:
        """The sizes of the axes. The first axis of a batch counts its samples."""

    def __len__(self) -> int: ...


#: The inputs of one batch: an array, several of them in the order in which the model takes them, or by name.
Inputs: TypeAlias = Array | Sequence[Array] | Mapping[str, Array]

#: A batch: its inputs alone, ``(inputs, labels)``, ``(inputs, labels, weights)``, or a mapping with a column of labels. Labels
#: are an array, or any nest that a loss of your own takes.
Batch: TypeAlias = Inputs | tuple[Inputs, Any] | list[Any]

#: Batches: a list, a PyTorch ``DataLoader``, a ``tf.data.Dataset``, a generator where one pass is enough. A data set of single
#: samples, of PyTorch, Hugging Face or WebDataset, is stacked, 32 samples a batch.
Batches: TypeAlias = Iterable[Batch]


#: Samples for calibration and verification: batches, or a single array, which is one batch.
Samples: TypeAlias = Batches | Array

#: Inputs like those of a file's application: a path, ``package.module:function``, ``random``, or the samples themselves; of a
#: bundle also those of each model by its name.
FileData: TypeAlias = str | Path | Inputs | Samples | Mapping[str, "str | Path | Inputs | Samples"]

#: From the float outputs of a batch to directions, each with an array for each output.
Directions: TypeAlias = Callable[[Sequence[np.ndarray]], Sequence[Sequence[np.ndarray]]]

#: How images lie: batch, channels, height, width, or channels last.
Layout: TypeAlias = Literal["NCHW", "NHWC"]

#: The type of a ``.tflite``'s inputs and outputs.
IoDtype: TypeAlias = Literal["int8", "uint8", "float32"]

#: In what the products of gradients are computed: float32; bfloat16 with sums in float32; or whichever is faster.
Gradients: TypeAlias = Literal["float32", "bf16", "auto"]

#: What prepares a model: the integer grid, or (``tf_keras``) tensorflow-model-optimization.
Engine: TypeAlias = Literal["grid", "tfmot"]

#: How calibration finds the range of an activation: see :mod:`qat.arithmetic.range_estimators`.
Estimator: TypeAlias = Literal["minmax", "ema", "percentile", "mse", "importance", "entropy"]


class Model(Protocol):
    """A model: a ``torch.nn.Module``, or a ``keras.Model`` of Keras 3 or of ``tf_keras``."""

    @property
    def __call__(self) -> Callable[..., Any]:
        """Return the outputs for the inputs of a batch."""


class PreparedModel(Model, Protocol):
    """A model on the integer grid, as :func:`qat.prepare` returns it: an ``nn.Module`` or a ``keras.Model`` with a plan.

    The exception is a model of ``tf_keras`` that tensorflow-model-optimization prepared: that model has no plan and no grids.
    """

    @property
    def qat_prepared(self) -> bool:
        """True: what tells a prepared model from a float one."""

    @property
    def plan(self) -> Plan:
        """The plan that the model was built from."""

    @property
    def grids(self) -> Mapping[str, Grid]:
        """The activation scales, by the name of the group of tensors that shares each."""


#: A prepared model that a call takes and returns: an ``nn.Module`` stays one.
P = TypeVar("P", bound=PreparedModel)


class Grid(Protocol):
    """The activation scale that a group of tensors shares."""

    @property
    def group(self) -> Group:
        """The tensors, and the integers that they may hold."""

    @property
    def calibrated(self) -> Any:
        """Whether the range is known."""

    @property
    def encoding(self) -> Encoding:
        """Scale, zero point and limits. Raises CalibrationError where there are none yet."""

    def set_range(self, low: float, high: float) -> None:
        """Set the range ``[low, high]`` in real units; scale and zero point follow from it."""


class Traced(Protocol):
    """A captured model: the neutral graph, and the arrays behind the parameters that its operators name."""

    @property
    def graph(self) -> Graph:
        """The operators and tensors."""

    @property
    def params(self) -> Mapping[str, np.ndarray]:
        """The parameters by name, in the framework's layout."""

    @property
    def fixed(self) -> frozenset[str]:
        """The names of the parameters that are not trained."""

    @property
    def acts(self) -> tuple[TrainingAct, ...]:
        """What training does with tensors of the graph."""

    def fixing(self, names: Set[str]) -> Traced:
        """Return the same with more parameters that are not trained."""


class Runner(Protocol):
    """The functions that the adapter of every framework has. Models and tensors are those of its own framework."""

    #: The target of a model where the user names none.
    DEFAULT_TARGET: str

    def inputs_of(self, sample: Any) -> tuple[Any, ...]:
        """Return the inputs of a sample as the framework's tensors. A pair ``(inputs, labels)`` loses its labels."""

    def forward(self, model: Any, inputs: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
        """Return the outputs for the inputs of a batch, in eval mode, without gradients."""

    def predict(self, model: Any, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the outputs for arrays, in eval mode."""


class Adapter(Runner, Protocol):
    """The adapter of PyTorch or of Keras 3: the functions by which the neutral rooms reach a model."""

    @property
    def trace(self) -> Callable[..., Traced]:
        """Capture a float model: ``(model, example_inputs)``, and for PyTorch the names of the ``dynamic`` axes."""

    def unheld(self, traced: Any, names: Set[str], suffix: str) -> Mapping[str, str]:
        """Return what an artifact cannot hold of the operators ``names``, which keep the framework's implementation, by name."""

    def insert(
        self, traced: Any, plan: Plan, params: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray] = ...
    ) -> PreparedModel:
        """Build the prepared model of a plan. ``masks`` are those of pruned weights whose zeros training keeps."""

    def grids(self, model: Any) -> Mapping[str, Any]:
        """Return the activation scales by group name."""

    def grid_values(self, model: Any, *arrays: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the integers of every value on the grid, by the value's name in the lowered program."""

    def set_range_tracking(self, model: Any, tracking: bool) -> None:
        """Let training move the activation ranges, or freeze them."""

    def lower(self, model: Any, outputs: Sequence[str] | None = None) -> Program:
        """Return the integer program of a calibrated model, of some of the graph's outputs or of all."""

    def twin_of(self, model: Any) -> Any:
        """Return a copy of a prepared model that shares nothing with it."""

    def layer_input(self, model: Any, name: str, inputs: Any) -> np.ndarray:
        """Return the real values that an operator reads, for the inputs of a batch."""

    def simulate(self, model: Any, inputs: Any, variants: Sequence[Variant]) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
        """Yield the index of each variant and the outputs of a calibrated model in float with its roundings alone."""

    def first_order(self, model: Any, inputs: Any, variants: Sequence[Variant], directions: Directions) -> np.ndarray:
        """Return how far each variant moves the outputs of each sample along directions: (directions, variants, samples)."""

    def float_values(self, model: Any, inputs: Any) -> Mapping[str, np.ndarray]:
        """Return the float values of a prepared model's inputs and of its operators' outputs, by tensor."""

    def layer_scale(self, model: Any, name: str, weight: str, bias: str | None) -> np.ndarray:
        """Return the scale of each output channel of an operator's weight, float32 of shape ``(channels,)``."""

    def first_not_finite(self, model: Any) -> str | None:
        """Return the first parameter or range of a prepared model that holds NaN or infinite values."""

    def parameter(self, model: Any, name: str) -> np.ndarray:
        """Return a copy of a parameter."""

    def set_parameter(self, model: Any, name: str, value: np.ndarray) -> None:
        """Overwrite a parameter."""

    def block_outputs(
        self, twin: Any, block: Block, values: Mapping[str, np.ndarray], simulation: Simulation | None
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a block of a float twin, by name; without a simulation in float."""

    def block_gradients(
        self,
        twin: Any,
        block: Block,
        values: Mapping[str, np.ndarray],
        targets: Mapping[str, np.ndarray],
        importance: Mapping[str, np.ndarray],
        simulation: Simulation,
        learned: Sequence[str],
    ) -> tuple[float, dict[str, np.ndarray], dict[str, float]]:
        """Return the weighted squared error of a block's outputs, and its gradients by weights and by scales."""

    def output_gradients(
        self,
        twin: Any,
        inputs: Mapping[str, np.ndarray],
        tensors: Sequence[str],
        slopes: Callable[[str, np.ndarray], np.ndarray],
        ends: Sequence[str] | None = None,
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return tensors with the gradients by them of the float outputs, or of ``ends``, multiplied by slopes of each."""


class ConverterAdapter(Runner, Protocol):
    """The adapter of ``tf_keras``: a model becomes one of Keras 3, or goes through tensorflow-model-optimization."""

    def as_keras3(self, model: Any) -> Model:
        """Return a float model as one of Keras 3. Raises ConversionError where a layer has no like there."""

    def prepare(self, model: Any, recipe: Recipe, target: Target) -> Any:
        """Return the fake-quantized copy of a float model."""

    def calibrate(self, model: Any, samples: Samples) -> Any:
        """Set the ranges from samples, and return the model."""

    def convert(self, model: Any, path: Path, io_dtype: str) -> bytes:
        """Return the trained model as the bytes of a ``.tflite``."""
