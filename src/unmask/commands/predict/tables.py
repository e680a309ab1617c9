"""What src/predict.py shows in the terminal."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from unmask.commands.predict.accuracy import Accuracy
from unmask.commands.predict.predictions import TopClasses
from unmask.data.images.unreadable import printable

MAX_CLASSES = 20  # in the table of accuracies, those that are predicted worst


def predictions_table(rows: Sequence[TopClasses]) -> Table:
    """Return a table with a row for each image."""
    table = Table("image", *(str(place) for place in range(1, len(rows[0].top) + 1)))
    for row in rows:
        # escaped: Rich reads [bold] in a file's name as markup
        table.add_row(
            escape(printable(row.image)),
            *(f"{escape(label)} {100 * p:.1f} %" for label, p in row.top),
        )
    return table


def accuracy_table(accuracy: Accuracy) -> Table:
    """Return a table of the classes that are predicted worst, and of all together."""
    classes = accuracy.by_class()
    worst = classes.sort_values("top-1", kind="stable")[:MAX_CLASSES]
    columns = list(accuracy.right_K)
    table = Table("class", "images", *(f"{name}, %" for name in columns))
    for _, row in worst.iterrows():
        shown = [f"{row[name]:.1f}" for name in columns]
        table.add_row(escape(printable(row["class"])), str(row["images"]), *shown)
    table.add_section()
    title = "all" if len(worst) == len(classes) else f"all {len(classes)} classes"
    per_cent = [f"{value:.1f}" for value in accuracy.per_cent().values()]
    table.add_row(title, str(accuracy.images), *per_cent)
    return table
