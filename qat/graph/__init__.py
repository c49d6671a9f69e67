"""The framework-neutral graph of a model, and its rewriting before anything is quantized."""
