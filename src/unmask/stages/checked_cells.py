"""A sweep's cells run what the sweep has checked, or not at all.

A sweep checks all its cells before the first starts; cells may start hours later, when
the project or its images have changed.
"""

import os
from collections.abc import Iterable

from unmask.config.checks import ConfigError
from unmask.stages.fingerprint import digest
from unmask.stages.plan import Plan

# the environment variable with the identities of all cells, separated by commas
CHECKED_CELLS = "UNMASK_CHECKED"


def plan_identity(plan: Plan) -> str:
    """Return a hash of all that the results of a run depend on."""
    return digest({"stages": [spec.fingerprint for spec in plan.stages]})


def publish_checked_cells(plans: Iterable[Plan]) -> None:
    """Tell the cells, which inherit this environment, which plans were checked."""
    os.environ[CHECKED_CELLS] = ",".join(dict.fromkeys(map(plan_identity, plans)))


def refuse_unchecked_cell(plan: Plan) -> None:
    """Raise ConfigError in a cell whose plan the sweep has not checked."""
    checked = os.environ.get(CHECKED_CELLS)
    # a run that no sweep has started is free
    if checked and plan_identity(plan) not in checked.split(","):
        stages = ", ".join(spec.key for spec in plan.stages)
        raise ConfigError(
            "the project or its images changed under the sweep: this cell is now"
            f" {stages}, which was not checked; undo the change, or type the sweep's"
            " command again to run what is there now"
        )
