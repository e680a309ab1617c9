"""What a sweep checked, told to its cells: one table must not be of two states of the project."""

import os
from collections.abc import Iterable

from unmask.runs.checks import ConfigError
from unmask.runs.fingerprint import digest
from unmask.runs.plan import Plan

CHECKED = "UNMASK_CHECKED"  # the identities of all cells, with commas between


def identity(plan: Plan) -> str:
    """Of all that its stages' results depend on."""
    return digest({"stages": [spec.fingerprint for spec in plan.stages]})


def agree(plans: Iterable[Plan]) -> None:
    """To be called by a sweep once it has checked its cells, which inherit what is set here."""
    os.environ[CHECKED] = ",".join(dict.fromkeys(map(identity, plans)))


def refuse_change(plan: Plan) -> None:
    """To be called by a cell. Raises ConfigError where it is not one of those that were checked."""
    checked = os.environ.get(CHECKED)
    if checked and identity(plan) not in checked.split(","):
        stages = ", ".join(f"{spec.kind}/{spec.fingerprint}" for spec in plan.stages)
        raise ConfigError(
            f"the project or its images changed under the sweep: this cell is now {stages}, which was not checked; "
            f"undo the change, or type the sweep's command again to run what is there now"
        )
