"""Planning: recipes, targets, and what they make of a graph."""
