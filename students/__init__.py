"""Consumers of soft labels: fusion, objectives, batches, the training loop, evaluation, export."""
