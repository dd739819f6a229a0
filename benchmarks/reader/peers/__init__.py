"""Other formats and loaders, one file each: `build(data, folder)` writes the data and returns its epochs."""
