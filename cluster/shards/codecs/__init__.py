"""How a teacher's distributions are stored: one file for each codec, with what it costs and what it can serve."""
