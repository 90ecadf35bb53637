"""Judges of answers: chat models at an endpoint or in an engine, reward models, implicit rewards, functions."""
