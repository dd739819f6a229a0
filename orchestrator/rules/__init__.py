"""Whether the parts of a job fit together, told from the spec alone."""
