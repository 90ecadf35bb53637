"""What a run trains on: signal datasets, pairs, rollout log-probabilities."""
