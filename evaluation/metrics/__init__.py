"""Figures from stored judgments: pure functions of numbers, no models and no files."""
