"""The forms of preference data: how rows of each are detected and read."""
