"""Files, signals and samples: the toolkit's dealings with the machine and with Python."""
