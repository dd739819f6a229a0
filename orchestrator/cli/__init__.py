"""The `coffey` command."""
