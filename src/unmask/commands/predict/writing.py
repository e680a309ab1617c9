"""Files of predictions, CSV or Parquet, written while images are still predicted."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from unmask.commands.out_file import PARQUET_SUFFIX
from unmask.commands.predict.predictions import Predictor, TopClasses
from unmask.data.listing.names import utf8_name
from unmask.storage.atomic import atomic_write, encode_csv

ROW_GROUP = 65_536  # rows that a Parquet file holds together


class Write(Protocol):
    """Write the rows of a batch."""

    def __call__(self, rows: Sequence[TopClasses], /) -> None: ...


def open_out(path: Path | None, predictor: Predictor) -> AbstractContextManager[Write]:
    """Return what writes rows to a CSV or Parquet file, by its ending.

    A row is an image: its name, each top class with its probability, and its own class
    where any image's is known. The file is there once all rows are. None: no file.
    """
    if path is None:
        return nullcontext(lambda rows: None)
    if path.suffix.lower() == PARQUET_SUFFIX:
        return _open_parquet(path, predictor)
    return _open_csv(path, predictor)


def _header(predictor: Predictor) -> list[str]:
    places = range(1, min(predictor.top, len(predictor.classes)) + 1)
    columns = [[f"class_{place}", f"probability_{place}"] for place in places]
    own = ["label"] if predictor.knows_labels else []
    return ["image", *(name for pair in columns for name in pair), *own]


@contextmanager
def _open_csv(path: Path, predictor: Predictor) -> Iterator[Write]:
    def write(rows: Sequence[TopClasses]) -> None:
        lines = []
        for row in rows:
            values = [row.image]
            for label, probability in row.top:
                values += [label, f"{probability:.6f}"]
            own = [row.label or ""] if predictor.knows_labels else []
            lines.append([*values, *own])
        file.write(encode_csv(lines))

    with atomic_write(path) as file:
        file.write(encode_csv([_header(predictor)]))
        yield write


@contextmanager
def _open_parquet(path: Path, predictor: Predictor) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    header = _header(predictor)
    is_number = [name.startswith("probability_") for name in header]
    types = [pa.float32() if number else pa.string() for number in is_number]
    schema = pa.schema(list(zip(header, types, strict=True)))
    held: list[TopClasses] = []

    def flush() -> None:
        columns: dict[str, list[Any]] = {name: [] for name in header}
        for row in held:
            columns["image"].append(utf8_name(row.image))
            for place, (label, probability) in enumerate(row.top, 1):
                columns[f"class_{place}"].append(label)
                columns[f"probability_{place}"].append(probability)
            if predictor.knows_labels:
                columns["label"].append(row.label)
        writer.write_table(pa.table(columns, schema=schema))
        held.clear()

    def write(rows: Sequence[TopClasses]) -> None:
        held.extend(rows)
        # few large groups: each costs a header, and readers take one at a time
        if len(held) >= ROW_GROUP:
            flush()

    with atomic_write(path) as file, ParquetWriter(file, schema) as writer:
        yield write
        flush()
