"""A stage on W&B, TensorBoard or trackio: one process that follows its metrics log."""
