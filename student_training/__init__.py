"""Stage two: train a student from signal datasets, with no teacher in memory."""
