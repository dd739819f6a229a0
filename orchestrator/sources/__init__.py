"""Where rows come from: readers of data that lies outside the store."""
