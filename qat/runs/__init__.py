"""Runs: the whole job of one configuration, its data and the models that ship with the toolkit."""
