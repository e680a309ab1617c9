"""Files of features: Parquet, or .npy with a list of names beside it."""

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from unmask.commands.embed.partial import PartialRows, partial_folder
from unmask.commands.out_file import PARQUET_SUFFIX
from unmask.data.listing.names import utf8_name
from unmask.storage.atomic import (
    atomic_write,
    read_note,
    write_csv_rows,
    write_json,
)

JOB_KEY = b"unmask"
# size of a row group: readers take one at a time
GROUP_BYTES = 2**26
MAX_GROUP_ROWS = 65_536


def finished_job(out: Path) -> dict[str, Any] | None:
    """Return which job a finished file is of; an empty one where it does not say.

    None where there is no file.
    """
    if not out.exists():
        return None
    if out.suffix.lower() != PARQUET_SUFFIX:
        note = read_note(_job_file(out))
        size = out.stat().st_size
        is_whole = names_file(out).exists() and size == note.get("bytes", size)
        return note.get("job", {}) if is_whole else {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(out).metadata or {}
        return json.loads(metadata[JOB_KEY])["job"]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return {}


def _job_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def names_file(out: Path) -> Path:
    """Return where the names of a .npy file's rows are."""
    return out.with_name(f"{out.name}.csv")


def finish(
    out: Path, rows: PartialRows, names: Sequence[str], labels: Sequence[str] | None
) -> None:
    """Make the finished file of all rows, and remove what led to it.

    names, labels: of all images, also of those that were skipped.
    """
    is_kept = [i not in rows.skipped for i in range(len(names))]
    kept_names = list(compress(names, is_kept))
    kept_labels = None if labels is None else list(compress(labels, is_kept))
    note: dict[str, Any] = {"job": rows.job, "shape": [rows.rows, *rows.form.shape]}
    if out.suffix.lower() == PARQUET_SUFFIX:
        _write_parquet(out, rows, kept_names, kept_labels, note)
    else:
        whole = rows.write_header()
        note["bytes"] = whole.stat().st_size
        # a kill from here on must not leave older rows beside newer names
        out.unlink(missing_ok=True)
        write_csv_rows(names_file(out), _named_rows(kept_names, kept_labels))
        write_json(_job_file(out), note)
        whole.replace(out)
    shutil.rmtree(partial_folder(out))


def _named_rows(
    names: Sequence[str], labels: Sequence[str] | None
) -> Iterator[Sequence[str]]:
    if labels is None:
        yield ["image"]
        yield from ([name] for name in names)
    else:
        yield ["image", "label"]
        yield from zip(names, labels, strict=True)


def _write_parquet(
    out: Path,
    rows: PartialRows,
    names: list[str],
    labels: list[str] | None,
    note: dict[str, Any],
) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kind: Any = pa.from_numpy_dtype(rows.form.dtype)
    for length in reversed(rows.form.shape):
        kind = pa.list_(kind, length)
    columns = [("image", pa.string())]
    columns += [("label", pa.string())] if labels is not None else []
    schema = pa.schema(
        [*columns, ("features", kind)], {JOB_KEY: json.dumps(note, sort_keys=True)}
    )
    step = max(1, min(MAX_GROUP_ROWS, GROUP_BYTES // rows.form.num_bytes))
    # numbers hardly repeat: a dictionary of them costs time and saves nothing
    options = {"use_dictionary": ["label"] if labels is not None else False}
    with (
        atomic_write(out) as file,
        ParquetWriter(file, schema, **options) as writer,
    ):
        for start in range(0, len(names), step):
            part = slice(start, start + step)
            arrays = [pa.array(map(utf8_name, names[part]), pa.string())]
            if labels is not None:
                arrays.append(pa.array(map(utf8_name, labels[part]), pa.string()))
            values = rows.read(start, len(names[part]))
            arrays.append(_lists(values, rows.form.shape))
            table = pa.Table.from_arrays(arrays, schema=schema)
            writer.write_table(table, row_group_size=step)


def _lists(values: Shaped[np.ndarray, "R *form"], shape: tuple[int, ...]) -> Any:
    """Return Arrow's lists of fixed length, without a copy of the numbers."""
    import pyarrow as pa

    array = pa.array(values.reshape(-1))
    for length in reversed(shape):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array


def read_chunks(out: Path) -> Iterator[Shaped[np.ndarray, "R D"]]:
    """Yield the vectors of a finished file in order, some at a time, as float32."""
    if out.suffix.lower() != PARQUET_SUFFIX:
        array = np.load(out, mmap_mode="r")
        count, step = len(array), max(1, GROUP_BYTES // max(1, array[:1].nbytes))
        for start in range(0, count, step):
            # mapped anew: pages of a map count as memory
            array = np.load(out, mmap_mode="r")
            yield np.array(array[start : start + step], np.float32)
        return
    import pyarrow.parquet as pq

    file = pq.ParquetFile(out)
    for group in range(file.num_row_groups):
        column = file.read_row_group(group, ["features"])["features"].combine_chunks()
        flat = column.flatten().to_numpy()
        yield flat.reshape(len(column), -1).astype(np.float32)


def written_names(out: Path) -> list[str]:
    """Return the names of a finished file's rows, in order."""
    if out.suffix.lower() == PARQUET_SUFFIX:
        import pyarrow.parquet as pq

        return pq.read_table(out, columns=["image"])["image"].to_pylist()
    path = names_file(out)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [row[0] for row in csv.reader(file)][1:]
