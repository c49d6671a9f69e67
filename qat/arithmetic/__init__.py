"""The integer kernels' arithmetic in NumPy, an operator or a runtime a file: the reference of everything else."""
