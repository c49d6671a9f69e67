"""Float files in, quantized files out: what ``qat quantize`` and :func:`qat.quantize` do."""
