"""Results of several algorithms, tasks and seeds side by side."""
