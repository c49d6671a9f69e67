"""Float files become models: each format's operators are written as a PyTorch module that the adapter captures."""
