"""Print and write the classes of images."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from unmask.commands.foreign_weights import (
    check_foreign,
    print_notes,
    refuse_hints,
    require_head,
)
from unmask.commands.predict.arguments import (
    Predict,
    check_places,
    classes_file,
)
from unmask.commands.units import count_noun
from unmask.commands.wanted_images import find_wanted
from unmask.exchange.geometry import Hints
from unmask.storage.atomic import write_text

if TYPE_CHECKING:
    from unmask.commands.predict.accuracy import Accuracy
    from unmask.commands.predict.predictions import Predictor, TopClasses

MAX_ROWS = 20  # images in the terminal where a file has all
MAX_ROWS_ALONE = 1000  # images in the terminal where there is no file


def run(arguments: Predict) -> "Accuracy":
    """Predict, print and write; return the counts of right answers.

    Raises ConfigError for weights without a head, ValueError where no image can be
    read.
    """
    check_places(arguments)
    hints = Hints(heads=arguments.heads, grid=arguments.grid)
    checkpoint = Path(arguments.checkpoint)
    outline = check_foreign("checkpoint", checkpoint, hints, arguments.weights)
    if outline:
        require_head(outline)
    else:
        refuse_hints(checkpoint, hints, weights=arguments.weights)
    images = find_wanted(Path(arguments.images), arguments.count)
    # torch takes seconds: imported once the weights are checked
    from unmask.commands.predict.predictions import (
        describe_format,
        load_predictor,
    )
    from unmask.commands.predict.tables import predictions_table

    predictor = load_predictor(arguments, images)
    out = Path(arguments.out) if arguments.out else None
    shown, count, accuracy = _predict_all(predictor, out)
    console = Console(soft_wrap=True)
    Console().print(predictions_table(shown))
    more = f", the first {len(shown)} of them above" if count > len(shown) else ""
    if out:
        console.print(f"{count_noun(count, 'image')}: {out}{more}", markup=False)
    elif more:
        console.print(f"{count} images{more}; out=FILE.csv has all", markup=False)
    _report_accuracy(accuracy, count, out)
    if outline:
        print_notes((*outline.notes, describe_format(predictor.classifier)))
    return accuracy


def _predict_all(
    predictor: "Predictor", out: Path | None
) -> tuple[list["TopClasses"], int, "Accuracy"]:
    """Write all rows as they come; return the first, how many there are, and counts.

    Raises ValueError where no image can be read.
    """
    from unmask.commands.predict.accuracy import Accuracy
    from unmask.commands.predict.writing import open_out

    errors = Console(stderr=True, soft_wrap=True)
    accuracy = Accuracy(predictor.classes)
    shown: list[TopClasses] = []
    count = 0
    with open_out(out, predictor) as write:
        for batch in track(
            predictor.batches(),
            total=-(-len(predictor.images) // predictor.batch_size),
            description="batches",
            console=errors,
            transient=True,
            disable=not errors.is_terminal,
        ):
            rows = predictor.rows(batch)
            write(rows)
            accuracy.add(batch.logits_BK, batch.labels_B)
            count += len(rows)
            limit = MAX_ROWS if out else MAX_ROWS_ALONE
            shown += rows[: limit - len(shown)]
            for fault in batch.faults:
                errors.print(f"skipped: {fault}", markup=False)
        if not count:
            # what is wrong with each is printed above
            raise ValueError(
                f"none of {len(predictor.images)} files can be read as an image"
            )
    return shown, count, accuracy


def _report_accuracy(accuracy: "Accuracy", count: int, out: Path | None) -> None:
    """Print how many answers are right, and write it class by class beside `out`."""
    if not accuracy.images:
        return
    from unmask.commands.predict.tables import accuracy_table

    Console().print(accuracy_table(accuracy))
    console = Console(soft_wrap=True)
    if accuracy.images < count:
        console.print(
            f"{count - accuracy.images} of {count} images are of no class that the"
            " classifier knows: left out of the accuracy",
            markup=False,
        )
    if out:
        by_class = classes_file(out)
        write_text(by_class, accuracy.by_class().to_csv(index=False))
        console.print(f"class by class: {by_class}", markup=False)
