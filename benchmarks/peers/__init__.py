"""Three teachers and one student, by Coffey, by hand and by other libraries."""
