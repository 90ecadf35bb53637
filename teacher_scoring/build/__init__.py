"""Building a dataset: work folder, assembly of shards, completion."""
