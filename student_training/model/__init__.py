"""The student model: loading, adapters, sharding, its initial log-probabilities."""
