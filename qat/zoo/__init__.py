"""Example models, the same in both frameworks."""
