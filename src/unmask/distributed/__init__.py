"""Several processes that train one model: ranks, collectives, the launcher, SLURM."""
