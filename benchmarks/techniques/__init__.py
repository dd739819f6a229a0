"""Every technique on the same data, as far as it allows with the same teachers, student, steps and seeds."""
