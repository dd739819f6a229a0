"""Producers of soft labels: what runs a model, the Serve deployment around it, and the labelling loop."""
