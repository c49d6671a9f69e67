"""The cheapest recipe that is good enough: steps by cost, their journal, and the decision."""
