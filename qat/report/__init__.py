"""Reports: artifacts compared on the same data, and the decision that follows."""
