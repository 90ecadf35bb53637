"""Public benchmarks through EleutherAI's lm-evaluation-harness (the extra [eval]): what did alignment cost."""
