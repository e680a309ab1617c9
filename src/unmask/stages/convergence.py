"""When a linear probe counts as converged, and what its result says of it."""

# the norm of the head's gradient over the last epoch, as a share of that of a head of
# zeros: 0 where the training loss is smallest (docs/downstream.md has the measurements)
HEAD_GRADIENT = "head_gradient"
MAX_HEAD_GRADIENT = 0.02
# 1 or 0, in the metrics of linear probes
CONVERGED = "converged"
