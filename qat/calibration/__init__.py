"""Between the float model and training: ranges, biases and roundings found from a few hundred samples."""
