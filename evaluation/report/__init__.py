"""One page over training runs and evaluations."""
