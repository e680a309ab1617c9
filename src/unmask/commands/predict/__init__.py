"""Print and write the classes of images."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from unmask.commands.predict.arguments import Predict

if TYPE_CHECKING:
    from unmask.commands.predict.predictions import Predictions


def run(arguments: Predict) -> "Predictions":
    """Predict, print and write; raise ValueError where no image can be read."""
    from unmask.commands.predict.predictions import (
        MAX_ROWS,
        predict,
        predictions_table,
        write_csv,
    )

    predictions = predict(arguments)
    if arguments.out:
        write_csv(predictions, Path(arguments.out))
    # a file has all rows, and the terminal some; without a file it has all
    shown = MAX_ROWS if arguments.out else None
    Console().print(predictions_table(predictions, shown))
    if arguments.out:
        count = len(predictions.names)
        more = f", the first {MAX_ROWS} of them above" if count > MAX_ROWS else ""
        Console().print(
            f"{count} images: {arguments.out}{more}", soft_wrap=True, markup=False
        )
    errors = Console(stderr=True, soft_wrap=True)
    if predictions.assumption:
        errors.print(predictions.assumption, markup=False)
    for fault in predictions.skipped:
        errors.print(f"skipped: {fault}", markup=False)
    return predictions
