"""Every technique on the same data, with the same teachers, student, steps and seeds."""
