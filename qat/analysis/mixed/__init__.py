"""Mixed precision: the precision of each layer, chosen so that the loss stays within a budget at the least size or latency."""
