"""Judges of answers: chat models behind an endpoint or an engine, reward models, implicit rewards, functions."""
