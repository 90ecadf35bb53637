"""Text and conversations as token ids, and back."""
