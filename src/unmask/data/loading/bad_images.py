"""Images of a stage that cannot be read: each is listed once, and too many of them end the run.

Every process that trains writes a list of its own into the stage's folder, and looks at the others' when it meets a
file that none has: so they need not talk, and none waits for one that has stopped.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from unmask.data.images.unreadable import Bad, shown
from unmask.data.loading.batch import Batch
from unmask.distributed import collectives
from unmask.storage.atomic import write_text
from unmask.storage.metrics_log import append, line, read_from

LIST = "bad_images.jsonl"
Row = dict[str, Any]


class TooManyBadError(ValueError):
    """More images than data.bad_limit allows cannot be read."""


class Seen(NamedTuple):
    """Where a bad image was met. images: how many of that split the stage uses; step: the optimiser step, from 1."""

    split: str
    images: int
    epoch: int = 0
    step: int = 0


class BadImages:
    """What is listed in a stage's folder. limit: the share of a split's images, rounded up to a whole one.

    fault: once too many are known, what to end the run with.
    """

    def __init__(self, folder: Path, limit: float, say: Callable[[str], None]) -> None:
        self.folder, self.limit, self.say = folder, limit, say
        # by name, of all processes as far as this one has looked
        self.rows: dict[str, Row] = {}
        self.counts: Counter[str] = Counter()  # of them by split
        self.looked: Counter[Path] = Counter()  # bytes of each list
        self.fault: TooManyBadError | None = None
        self.warned = False

    def met(self, bad: Sequence[Bad], seen: Seen) -> None:
        if any(each.name not in self.rows for each in bad):
            self.look()
            for each in bad:
                if each.name not in self.rows:
                    place = {
                        "split": seen.split,
                        "epoch": seen.epoch,
                        "step": seen.step,
                    }
                    self.add({"name": each.name, "reason": each.reason, **place})
            # after having written: of two processes that meet one each, the later sees
            # both
            self.look()
            self.warn()
        if bad:
            self.judge(seen)

    def add(self, row: Row) -> None:
        rank = collectives.rank()
        append(self.folder / (f"bad_images.rank{rank}.jsonl" if rank else LIST), row)
        self.know(row)

    def know(self, row: Row) -> None:
        known = self.rows.get(row["name"])
        if known is None or row["step"] < known["step"]:
            self.rows[row["name"]] = row
        self.counts[row["split"]] += known is None

    def adopt(self, others: "BadImages") -> None:
        """What another stage met on its way to features that this one uses too."""
        for name in others.rows.keys() - self.rows.keys():
            self.add(others.rows[name])

    def look(self) -> None:
        """At what is new in the lists of all processes; where two have a file the earlier step counts."""
        for path in self.lists():
            rows, self.looked[path] = read_from(path, self.looked[path])
            for row in rows:
                self.know(row)

    def reasons(self) -> dict[str, str]:
        """Of all that are listed, by name."""
        self.look()
        return {name: row["reason"] for name, row in self.rows.items()}

    def lists(self) -> list[Path]:
        return sorted(self.folder.glob("bad_images*.jsonl"))

    def warn(self) -> None:
        """Once, by the process that speaks."""
        if self.warned or not self.rows:
            return
        self.warned = True
        first = next(iter(self.rows.values()))
        self.say(
            f"warning: {shown(first['name'])} cannot be read ({first['reason']});"
            " another image stands in for it, and all such files are listed in"
            f" {self.folder / LIST}"
        )

    def judge(self, seen: Seen) -> None:
        # as it was written
        count, allowed = (
            self.counts[seen.split],
            ceil(Fraction(str(self.limit)) * seen.images),
        )
        if self.fault or count <= allowed:
            return
        last = next(
            row for row in reversed(self.rows.values()) if row["split"] == seen.split
        )
        self.fault = TooManyBadError(
            f"{count} of {seen.images} {seen.split} images ({count / seen.images:.2%})"
            f" cannot be read so far; data.bad_limit={self.limit:g} allows {allowed};"
            f" {shown(last['name'])} cannot be read as an image ({last['reason']}), and"
            " all are listed in"
            f" {self.folder / LIST}{' and beside it' if len(self.lists()) > 1 else ''};"
            " mend or remove the files, or raise data.bad_limit and the same command"
            " goes on from the last checkpoint"
        )

    def count(self, split: str, step: int) -> int:
        """How many of a split had been met by that step, by all processes."""
        self.look()
        self.warn()  # another process may have met the first one
        return sum(
            row["split"] == split and row["step"] <= step for row in self.rows.values()
        )

    def merge(self) -> list[Row]:
        """One list of all, in the order of steps, when the stage's work is done; by the process that leads."""
        self.look()
        rows = sorted(self.rows.values(), key=lambda row: (row["step"], row["name"]))
        if rows:
            write_text(self.folder / LIST, "".join(map(line, rows)))
            for path in self.lists():
                if path.name != LIST:
                    path.unlink(missing_ok=True)
            many = "1 image" if len(rows) == 1 else f"{len(rows)} images"
            self.say(f"  {many} could not be read: {self.folder / LIST}")
        return rows


def is_original(batch: Batch) -> Bool[Tensor, "B"]:
    """Which images are the samples' own; others stand in for ones that cannot be read."""
    lost = torch.tensor(
        [each.id for each in batch.bad], dtype=torch.long, device=batch.ids_B.device
    )
    return ~torch.isin(batch.ids_B, lost)


def drop_substitutes(batch: Batch) -> tuple[Batch, int]:
    """For measuring, where no image may count twice: without those that stand in, and how many there are then.

    Where all stand in they stay, to be computed and not counted: who holds a share of the model has to take part.
    """
    if not batch.bad:
        return batch, len(batch.ids_B)
    kept_B = is_original(batch)
    if not kept_B.any():
        return batch, 0
    images, labels, ids = (
        batch.images_BCHW[kept_B],
        batch.labels_B[kept_B],
        batch.ids_B[kept_B],
    )
    return batch._replace(images_BCHW=images, labels_B=labels, ids_B=ids), len(ids)
