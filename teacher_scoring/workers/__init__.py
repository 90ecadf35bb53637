"""Processes that hold an engine: one, or many on Ray."""
