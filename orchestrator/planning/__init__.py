"""What is done, what is left, and whether it finds room."""
