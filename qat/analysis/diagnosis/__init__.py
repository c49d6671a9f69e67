"""Diagnosis of a quantized file against its float one: where the error arises, why, and what mends it."""
