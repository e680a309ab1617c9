"""Lightning callbacks: checkpoints, metrics, dashboards, and guards of a training."""
