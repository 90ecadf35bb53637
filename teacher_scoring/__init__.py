"""Stage one: run a teacher, its reference or a student under an engine and write what they say to disk."""
