"""A signal dataset on the token ids of another tokenizer: alignment by bytes, projection, translation."""
