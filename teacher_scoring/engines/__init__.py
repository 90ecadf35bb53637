"""Engines that score and sample: contract, checks, backends."""
