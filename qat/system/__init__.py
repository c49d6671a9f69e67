"""Files, signals and samples: what the toolkit needs of the machine and of Python."""
