"""How fast a shuffled epoch is read, against the limit of memory and against other formats and loaders."""
