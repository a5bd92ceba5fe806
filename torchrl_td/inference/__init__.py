"""Making a planner fast, from outside of it."""
