"""Scoring passes: one model over all responses, cached by content."""
