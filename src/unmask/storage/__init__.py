"""Files that survive a crash: atomic writes, the metrics log, checkpoints."""
