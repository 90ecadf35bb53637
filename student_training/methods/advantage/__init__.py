"""Methods that follow the teacher's advantage: by its expectation, or by matching a distribution moved along it."""
