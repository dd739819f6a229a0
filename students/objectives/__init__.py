"""What a student minimises: one file for each term, with its paper and formula."""
