"""Checks that a dataset is valid: its files, rows and numbers."""
