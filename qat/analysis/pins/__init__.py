"""Pinned layers by the names that other tools know them by."""
