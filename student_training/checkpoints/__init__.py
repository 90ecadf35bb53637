"""What a run writes: checkpoints, the final model, the run record."""
