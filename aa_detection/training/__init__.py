"""Shared by both engines' training loops: image order, output files, failures."""
