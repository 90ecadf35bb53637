"""Preference files of every form, as one kind of row."""
