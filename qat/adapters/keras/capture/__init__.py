"""Capture: a Keras model becomes the neutral graph."""
