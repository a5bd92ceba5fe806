"""What the console commands do, and the examples of the same names."""
