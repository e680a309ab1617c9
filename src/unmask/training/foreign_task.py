"""A task of the user's is tried on random features, before anything expensive."""

from typing import Any

import torch

from unmask.config.schema import Config
from unmask.randomness import make_key, uniform
from unmask.tasks.features import LabelledFeatures
from unmask.tasks.own_task import Change, apply_change, run_task
from unmask.training import build
from unmask.training.foreign_target import sample_images

NUM_CLASSES = 4
IMAGES_OF_CLASS = 8
MEMBERS = {"unit": str, "higher_is_better": bool}


def check_task_class(config: Config) -> None:
    """Raise ValueError unless it measures numbers, the same ones for the same seed."""
    task: Any = build.build_task(config)
    if missing := [m for m in (*MEMBERS, "measure") if not hasattr(task, m)]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    for name, kind in MEMBERS.items():
        if not isinstance(value := getattr(task, name), kind):
            raise ValueError(
                f"its {name} is {value!r}, and not of type {kind.__name__}"
            )
    images_BCHW = sample_images(config)
    labels_N = torch.arange(NUM_CLASSES).repeat(IMAGES_OF_CLASS)
    ids = torch.arange(len(labels_N))
    width = config.model.width

    def features(
        change: Change | None = None,
    ) -> tuple[LabelledFeatures, LabelledFeatures]:
        if change is not None:
            apply_change(change, images_BCHW)
        train, val = (
            LabelledFeatures(uniform(make_key(0, split), 0, ids, width), labels_N)
            for split in ("train", "val")
        )
        return train, val

    first, again = (run_task(task, features, config.seed) for _ in range(2))
    if first != again:
        raise ValueError(
            f"it measures {first} and then {again} of the same features; draw from"
            " torch's or NumPy's generators, which are seeded, or from the seed"
        )
