"""What watches a fit: progress, the journal of metrics, checkpoints and signals, pictures."""
