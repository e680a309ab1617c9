"""Imported by the process that commands are forked from: what each of them would do first is done once for all.

Hydra finds its plugins, its grammar learns what overrides look like, the digits are unpacked.
"""

import atexit
import gc

from small_runs import raw_config
from unmask.data.loading.in_memory import load_arrays

raw_config(
    "stages=[pretrain,knn]",
    "target=pixel_norm",
    "model.width=24",
    "runs_dir=/tmp/a-b_c",
    "finetune.mixup=0.8",
)
load_arrays("mnist5k")
gc.collect()
atexit.register(gc.unfreeze)  # else some library tells of leaks
# no collection in a fork goes through all that was imported: it would copy every page
gc.freeze()
