"""The LM head fused with the objective, in chunks."""
