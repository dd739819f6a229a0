"""How much each teacher counts: one file for each method, with its paper and formula."""
