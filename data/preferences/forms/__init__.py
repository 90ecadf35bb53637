"""The forms in which people keep preferences: told apart, and taken apart."""
