"""The arithmetic of TFLite's own depthwise convolution, in NumPy: the multiplier of the others, with the reference's roundings.

Where the delegate does not take one, such as a filter of 4-bit weights, halves go away from zero. Seen equal in every bit.
"""

from .tflite import add as add
from .tflite import avg_pool2d as avg_pool2d
from .tflite import exponentials as exponentials
from .tflite import mean as mean
from .tflite import mul as mul
from .tflite import product_multiplier as product_multiplier
from .tflite import quantize as quantize
from .tflite import requantize as requantize
from .tflite import softmax as softmax
from .tflite_builtin import multiplier as multiplier
