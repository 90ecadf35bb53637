"""What a run measures: metrics, throughput, memory."""
