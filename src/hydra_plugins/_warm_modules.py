"""Import what a training does, once, in the process that cells are forked from.

Nothing else imports this module. Hydra leaves out those whose names begin with "_".
"""

import gc
import signal
from importlib import import_module

from unmask.distributed.processes import request_signal_at_parents_end
from unmask.stages.drift import digest_imported_files

MODULES = (
    "hydra_plugins.experiment_sweeper",
    "train",
    "unmask.training.execute",
    "unmask.training.failures",
    "unmask.data.loading.arrays",
    "unmask.reports.run.class_figures",
    "unmask.reports.run.figures",
    "unmask.reports.run.page",
    "unmask.reports.run.tables",
)

# it ends with the launcher, and what it has forked is then asked to (end_with_parent)
request_signal_at_parents_end(signal.SIGKILL)
# imports leave no garbage, and looking for it takes a fifth of their time
gc.disable()
for name in MODULES:
    import_module(name)
digest_imported_files()
# forked processes share these objects, as long as no collection writes into them
gc.freeze()
gc.enable()
