"""Environments with the transforms that planning needs."""
