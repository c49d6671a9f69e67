"""The integer-grid nodes: one ``nn.Module`` per kernel."""
