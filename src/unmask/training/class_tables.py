"""What a classifier gets right: by class, class against class, and image by image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int
from torch import Tensor

from unmask.distributed import collectives
from unmask.stages.records import PREDICTIONS_FILE
from unmask.storage.atomic import write_text

# the image's place in the validation split, and numbers of classes
PREDICTIONS = ("image", "label", "predicted")
# The square of iNaturalist's 8,142 classes would take half a gigabyte.
MAX_CONFUSION_CLASSES = 1000


def write_class_tables(
    folder: Path, class_names: Sequence[str], answers_N3: Int[Tensor, "N 3"]
) -> None:
    """Write predictions.csv, classes.csv, and with few enough classes confusion.csv.

    answers_N3: PREDICTIONS of each validation image, the same on all ranks; rank zero
    writes.
    """
    if not collectives.is_rank_zero():
        return
    rows = pd.DataFrame(answers_N3.numpy(), columns=list(PREDICTIONS))
    write_text(folder / PREDICTIONS_FILE, rows.to_csv(index=False))
    names, classes = list(class_names), len(class_names)
    correct = rows["label"][rows["label"] == rows["predicted"]]
    table = pd.DataFrame(
        {"class": names, "images": np.bincount(rows["label"], minlength=classes)}
    )
    # a class without validation images has an empty cell instead of an accuracy
    shown = table["images"].replace(0, float("nan"))
    table["accuracy"] = (100 * np.bincount(correct, minlength=classes) / shown).round(2)
    write_text(folder / "classes.csv", table.to_csv(index=False))
    if classes <= MAX_CONFUSION_CLASSES:
        pairs = rows["label"] * classes + rows["predicted"]
        counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        square = pd.DataFrame(counts, index=pd.Index(names, name="true"), columns=names)
        write_text(folder / "confusion.csv", square.to_csv())
