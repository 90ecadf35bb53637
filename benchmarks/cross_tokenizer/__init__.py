"""Signals on another tokenizer: how much is aligned at what speed, and what a student learns from them."""
