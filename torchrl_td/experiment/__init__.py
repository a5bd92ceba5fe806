"""A run from its folder to its results: all that wires the parts together."""
