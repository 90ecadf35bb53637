"""Stage one: run a teacher, its reference or a student under an engine and store their scores."""
