"""Print and write the classes of images."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from unmask.commands.foreign_weights import check_foreign, require_head
from unmask.commands.predict.arguments import Predict, check_places
from unmask.exchange.geometry import Hints

if TYPE_CHECKING:
    from unmask.commands.predict.predictions import Predictions


def run(arguments: Predict) -> "Predictions":
    """Predict, print and write.

    Raises ConfigError for weights without a head, ValueError where no image can be
    read.
    """
    check_places(arguments)
    hints = Hints(heads=arguments.heads, grid=arguments.grid)
    checkpoint = Path(arguments.checkpoint)
    outline = check_foreign("checkpoint", checkpoint, hints, arguments.weights)
    if outline:
        require_head(outline)
    # torch takes seconds: imported once the weights are known to be some
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
