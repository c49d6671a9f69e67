"""Rewriting of the neutral graph: an operator without a kernel of its own becomes several that have one."""
