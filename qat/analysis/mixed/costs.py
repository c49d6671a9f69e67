"""What each choice of a layer costs alone: the bytes of its weights in the artifact, and the time of its kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from qat.planning.recipe import Recipe, Rule
from qat.program.program import Instruction, Program

from .choices import FLOAT, Choice
from .network import Network
from .single_layers import layer_file
from .times import Times

#: Makes the program of a recipe; its ranges do not matter.
Lower = Callable[[Recipe], Program]


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs in one precision.

    Attributes:
        bytes: of its weights in the artifact, without their scales.
        ms: of its kernels, without the conversions around them.
    """

    bytes: int
    ms: float


def layer_costs(network: Network, lower: Lower, times: Times | None) -> dict[tuple[str, str], LayerCost]:
    """Return the cost of each layer in each of its choices, by both names. Each choice is lowered as often as it must be.

    A float layer is timed as a float16 one: the runtimes turn float16 weights into float32 when they load the file, and run the
    float kernel. Where the target has no float16 form of it, it counts as its slowest choice.

    Args:
        network: the layers and their choices.
        lower: makes programs.
        times: where milliseconds come from; None: all are 0.
    """
    found: dict[tuple[str, str], LayerCost] = {}
    weights: dict[str, int] = {}
    as_float: dict[str, list[tuple[Instruction, Program]]] = {}
    for choice in _lowered(network):
        for layers, program in _programs(network, choice, lower):
            for layer in layers:
                held = [(i, program) for i in program.instructions if i.name in network.layers[layer].ops]
                own = _distinct([i for i, _ in held])
                weights[layer] = sum(i.weight.size for i in own if i.weight is not None)
                if choice.rule.mode == "float16":
                    as_float[layer] = held
                if choice.name in network.choices:
                    stored = sum(layer_file(program, [i], network.target.suffix).weight_bytes() for i in own)
                    ms = None if times is None else times.of_layer(layer, choice.name, held)
                    found[layer, choice.name] = LayerCost(stored, ms or 0.0)
    for layer, names in network.options.items():
        if FLOAT in names:
            ms = None if times is None else times.of_layer(layer, FLOAT, as_float.get(layer, ()))
            slowest = max(found[layer, name].ms for name in names if name != FLOAT)
            found[layer, FLOAT] = LayerCost(4 * weights[layer], slowest if ms is None else ms)
    return found


def _lowered(network: Network) -> Iterator[Choice]:
    """Yield the choices that are lowered: float stands in no program, and is timed as float16."""
    chosen = [choice for choice in network.choices.values() if choice.name != FLOAT]
    yield from chosen
    needed = FLOAT in network.choices and network.target.modes.stored.get("float16")
    if needed and all(choice.rule.mode != "float16" for choice in chosen):
        yield Choice("float16", Rule(mode="float16"))


def _programs(network: Network, choice: Choice, lower: Lower) -> Iterator[tuple[Sequence[str], Program]]:
    """Yield programs in which some layers have a choice and all others are float, until each layer that has it was in one."""
    within = Network(network.graph, network.base, network.target, [choice])
    layers = [layer for layer in network.options if within.plan_of({layer: choice.name}) is not None]
    waiting = [layers] if layers else []
    while waiting:
        part = waiting.pop()
        together = dict.fromkeys(part, choice.name)
        if len(part) > 1 and within.plan_of(together) is None:
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
        else:
            yield part, lower(within.recipe(together))


def _distinct(held: Sequence[Instruction]) -> list[Instruction]:
    """Return the instructions without those whose weight an earlier one has."""
    return list({b"" if i.weight is None else i.weight.tobytes(): i for i in reversed(held)}.values())
