"""The stage `task`: a measurement of the user's, of a frozen encoder."""

from collections.abc import Iterator
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from unmask.config.own_class import OWN_CLASS, OwnClass, refuse_other_keys
from unmask.config.probes import FROZEN_POOLING
from unmask.config.recipe_parts import FrozenPooling
from unmask.config.section import Count, Section


class Task(Section):
    """Which class measures, on which features; its other keys are the class's."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    target_: OwnClass | None = OWN_CLASS
    # with defaults: configs of older ledgers lack them
    pool: FrozenPooling = Field(default="mean", description=FROZEN_POOLING.description)
    labels: Count | None = Field(
        default=None,
        description="number of labelled images that a task of yours gets; null: all",
    )

    @model_validator(mode="after")
    def refuse_keys_of_no_class(self) -> "Task":
        refuse_other_keys(self, self.target_)
        return self


def check_task(config: Any) -> Iterator[str]:
    if config.task.target_ is None:
        yield (
            "task._target_ = null: the stage task is a class of yours; name it:"
            " task._target_=my_tasks.Rotation (docs/extending.md)"
        )


def describe_task(recipe: Any, result: dict[str, Any]) -> str:
    values = recipe.model_extra or {}
    typed = ", ".join(f"{key} = {value}" for key, value in values.items())
    return ", ".join(filter(None, (f"{recipe.target_}", typed)))
