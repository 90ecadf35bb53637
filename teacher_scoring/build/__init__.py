"""Datasets in the making: work folder, assembly, completion."""
