"""What this machine's processor can do, for tests whose files need it."""

from qat.system.machine import processor

_PROCESSOR = processor()

#: Whether an .onnx with weights of 8 bits is right here: on x86 without VNNI the 16-bit sums of ONNX Runtime's kernels saturate.
EIGHT_BITS_ARE_EXACT = _PROCESSOR.kind != "x86" or _PROCESSOR.features.get("VNNI", True)
