"""Ways to combine teachers that are learned from held-out rows, and their records in the store."""
