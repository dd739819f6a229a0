"""A spec as text: a tree that knows its lines, the overrides on it, and what is wrong with it."""
