"""Readers of the forms that episodes come in."""
