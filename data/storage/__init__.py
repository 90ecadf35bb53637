"""Where datasets are kept: the local store, pruning, remote addresses, transfer."""
