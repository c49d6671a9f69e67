"""Forward and backward passes of the nodes."""
