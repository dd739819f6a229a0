"""The job that `coffey demo` runs: real data, real teachers, two cores, a minute."""
