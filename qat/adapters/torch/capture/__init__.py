"""Capture: a PyTorch model becomes the neutral graph."""
