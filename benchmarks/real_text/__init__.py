"""What the methods are worth on real text: real weights, real tokenizers, rewards that programs compute."""
