"""Students that teach each other while they learn: one small file for each method."""
