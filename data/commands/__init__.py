"""The `signals` commands: their options, what they do, and what they return."""
