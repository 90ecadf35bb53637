"""What a preference file is taken for: shown before anything is run, and written in the canonical form."""
