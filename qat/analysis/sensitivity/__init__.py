"""Sensitivity: what each layer's quantization costs, measured one layer at a time or estimated for all at once."""
