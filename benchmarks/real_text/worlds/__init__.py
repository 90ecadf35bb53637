"""Where prompts and rewards come from: the worlds, and preference pairs of answers in them."""
