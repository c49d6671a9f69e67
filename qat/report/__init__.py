"""Reports: artifacts compared on the same data, and what the comparison comes to."""
