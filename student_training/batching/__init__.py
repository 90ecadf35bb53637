"""From responses to batches: order, sizes, packing, collation."""
