"""Freezing of oscillating weights: the rule that both frameworks carry out after each update of the weights.

A weight near the border of two integers flips between them from step to step. Source: Nagel et al. 2022, "Overcoming Oscillations
in Quantization-Aware Training", section 4.2 and algorithm 1. For each weight, ``q`` its integer now and ``last`` the one before:

    oscillated = q != last and sign(q - last) == -direction        direction: the sign of the last change, 0 before there is one
    frequency += MOMENTUM * (oscillated - frequency)
    mean      += MOMENTUM * (q - mean)
    frozen     = round(mean)                                       once frequency > threshold, and for good

A frozen weight stays at its integer: after each update it is ``frozen * scale`` again, whatever the optimizer and its momentum
made of it. So what is exported is an ordinary weight on the grid.

Where a scale is not learned it is that of the largest weight. The weight that sets it is never frozen, and frozen ones follow it:
only those at the limit of the integers, which are as large, take part in it.
"""

from __future__ import annotations

#: The weight of a step in the moving averages: the paper's.
MOMENTUM = 0.01
#: Stands for no integer in ``frozen``, an int8: weights of fewer than 8 bits reach no further than -63.
FREE = -128
