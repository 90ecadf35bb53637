"""Where the models come from: real weights, cut down in vocabulary and in layers."""
