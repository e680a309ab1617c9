"""What a classifier gets right: by class, class against class, and image by image."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from unmask.distributed import collectives
from unmask.stages.records import PREDICTIONS_FILE
from unmask.storage.atomic import write_text
from unmask.tasks.classify import Classify

# the image's place in the validation split, and numbers of classes
PREDICTIONS = ("image", "label", "predicted")


def write_class_tables(
    folder: Path, class_names: Sequence[str], module: Classify
) -> None:
    """Write predictions.csv, classes.csv, and with few enough classes confusion.csv.

    All ranks call it, since their counts are summed; rank zero writes.
    """
    answers = module.predictions()
    images, correct = module.class_counts()
    confusion = module.confusion_counts()
    if not collectives.is_rank_zero():
        return
    rows = pd.DataFrame(answers.numpy(), columns=list(PREDICTIONS))
    write_text(folder / PREDICTIONS_FILE, rows.to_csv(index=False))
    names = list(class_names)
    table = pd.DataFrame({"class": names, "images": images.cpu().numpy()})
    # a class without validation images has an empty cell instead of an accuracy
    shown = table["images"].replace(0, float("nan"))
    table["accuracy"] = (100 * correct.cpu().numpy() / shown).round(2)
    write_text(folder / "classes.csv", table.to_csv(index=False))
    if confusion is not None:
        square = pd.DataFrame(
            confusion.cpu().numpy(), index=pd.Index(names, name="true"), columns=names
        )
        write_text(folder / "confusion.csv", square.to_csv())
