"""One optimisation step, alone or among several processes."""
