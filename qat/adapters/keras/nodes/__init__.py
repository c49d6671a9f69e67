"""The integer-grid nodes: one class per kernel."""
