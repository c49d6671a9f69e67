"""What was measured of two files: plain figures, from which causes are told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ValueFacts:
    """The values of a step in the float file, against the grid of the quantized one.

    Attributes:
        low, high: the extremes.
        typical: the 0.1 and 99.9 percentiles.
        range: that the grid covers; None where the quantized file holds the value in float.
        clipped: the share of values outside the range, 0 to 1.
        clip_sqnr: of clipping alone, in dB.
        rounding_sqnr: of rounding to the grid alone, for the median channel and without outliers, by the formula ``scale^2 / 12``
            for uniform noise, in dB.
        channel_ratio: the largest channel's magnitude, as a multiple of the channels' median.
    """

    low: float
    high: float
    typical: tuple[float, float]
    range: tuple[float, float] | None
    clipped: float
    clip_sqnr: float
    rounding_sqnr: float
    channel_ratio: float


@dataclass(frozen=True)
class WeightFacts:
    """The weight and bias of a step in both files.

    Attributes:
        bits: of the stored weight.
        per_channel: whether it has a scale for each channel.
        channel_ratio: the largest channel's largest weight, as a multiple of the channels' median, in the float file.
        largest_bias: of the float bias, in units of int32's limit: ``|b| / (s_x s_w) / 2^31``.
        stored_bias: of the stored bias, in the same unit.
        saturation_sqnr: what the sums of two products that saturate in 16 bits leave, in dB; infinite where none does.
        saturated: the share of sums of two products that saturate.
    """

    bits: int
    per_channel: bool
    channel_ratio: float
    largest_bias: float = 0.0
    stored_bias: float = 0.0
    saturation_sqnr: float = float("inf")
    saturated: float = 0.0


@dataclass(frozen=True)
class StepFacts:
    """A step that both files have.

    Attributes:
        name: of its result in the float file.
        quantized_name: in the quantized file.
        kind: of its operator; ``input`` of an input of the model.
        inputs: the float file's names of the steps that it reads.
        feeds: the kinds of operators that read its result.
        is_output: whether its result is an output of the model.
        sqnr: of its result against float, in dB: with the errors of all steps before it.
        own_sqnr: of the step alone, on the float file's own values rounded to its inputs' grids, in dB.
        share: of the outputs' error that the step alone makes, 0 to 1; None where it was not measured.
        channels: of its result.
        dead: how many channels are constant in the quantized file and vary in the float one, on the same inputs.
        correlation: of both files' results on the same inputs, the median of the channels that vary.
        gain: by how much the quantized file's results are larger than the float ones on the same inputs, the same median.
        values: its values.
        weight: None of a step without one.
    """

    name: str
    quantized_name: str
    kind: str
    inputs: tuple[str, ...]
    feeds: tuple[str, ...]
    is_output: bool
    sqnr: float
    own_sqnr: float
    share: float | None
    channels: int
    dead: int
    correlation: float
    gain: float
    values: ValueFacts
    weight: WeightFacts | None = None


@dataclass(frozen=True)
class Facts:
    """Two files, measured on the same samples.

    Attributes:
        steps: that both have, in the order of the network.
        unmatched: the names of the float file's steps that were not found in the quantized one.
        sqnr: of the outputs against float, in dB; of several outputs the lowest.
        spread_sqnr: the same against the outputs' spread over the samples alone.
        samples: how many were run.
        same: of models with classes: the number of samples with the same answer; None of other models.
        without_vnni: whether this machine's processor saturates sums of two products.
    """

    steps: tuple[StepFacts, ...]
    unmatched: tuple[str, ...]
    sqnr: float
    spread_sqnr: float
    samples: int
    same: int | None = None
    without_vnni: bool = False
