"""The bad images of a stage: each is listed once, and too many of them end the run.

Every rank writes its own list into the stage's folder, and reads the other ranks'
lists when it meets a file that is in none: so the ranks need not communicate, and none
waits for another that has stopped.
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

from unmask.data.images.unreadable import BadImage, printable
from unmask.data.loading.batch import Batch
from unmask.distributed import collectives
from unmask.storage.atomic import write_text
from unmask.storage.metrics_log import append_row, encode_row, read_rows_from

LIST_NAME = "bad_images.jsonl"
Row = dict[str, Any]  # name, reason, split, epoch, step


class TooManyBadImagesError(ValueError):
    """More images cannot be read than data.bad_limit allows."""


class SplitProgress(NamedTuple):
    """Where a stage stands when it meets a bad image.

    num_images: how many of the split the stage uses. step: the optimiser step, from 1.
    """

    split: str
    num_images: int
    epoch: int = 0
    step: int = 0


class BadImages:
    """The list of bad images in a stage's folder.

    limit: data.bad_limit, a share of a split's images, rounded up to a whole image.
    limit_error: the error to end the run with, once there are too many. notify: shows a
    line to the user.
    """

    def __init__(
        self, folder: Path, limit: float, notify: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.limit = limit
        self.notify = notify
        # by name, of all ranks, as of the last refresh
        self.rows: dict[str, Row] = {}
        self.counts_by_split: Counter[str] = Counter()
        self.bytes_read: Counter[Path] = Counter()  # of each rank's list
        self.limit_error: TooManyBadImagesError | None = None
        self.has_warned = False

    def record(self, bad: Sequence[BadImage], progress: SplitProgress) -> None:
        """List the images that are new, warn about the first, and check the limit."""
        if any(image.name not in self.rows for image in bad):
            self.refresh()
            for image in bad:
                if image.name not in self.rows:
                    self._append(
                        {
                            "name": image.name,
                            "reason": image.reason,
                            "split": progress.split,
                            "epoch": progress.epoch,
                            "step": progress.step,
                        }
                    )
            # read after having written: if two ranks meet one image each, at least the
            # later one sees both
            self.refresh()
            self.warn_once()
        if bad:
            self.check_limit(progress)

    def _append(self, row: Row) -> None:
        rank = collectives.rank()
        name = f"bad_images.rank{rank}.jsonl" if rank else LIST_NAME
        append_row(self.folder / name, row)
        self._remember(row)

    def _remember(self, row: Row) -> None:
        """Keep the row; of two rows of one image, that of the earlier step."""
        known = self.rows.get(row["name"])
        if known is None or row["step"] < known["step"]:
            self.rows[row["name"]] = row
        if known is None:
            self.counts_by_split[row["split"]] += 1

    def copy_from(self, other: "BadImages") -> None:
        """Copy what another stage met, if this stage uses features made there."""
        for name in other.rows.keys() - self.rows.keys():
            self._append(other.rows[name])

    def refresh(self) -> None:
        """Read what is new in the lists of all ranks."""
        for path in self.list_paths():
            rows, self.bytes_read[path] = read_rows_from(path, self.bytes_read[path])
            for row in rows:
                self._remember(row)

    def reasons_by_name(self) -> dict[str, str]:
        """Return why each listed image cannot be read."""
        self.refresh()
        return {name: row["reason"] for name, row in self.rows.items()}

    def list_paths(self) -> list[Path]:
        """Return the lists of all ranks."""
        return sorted(self.folder.glob("bad_images*.jsonl"))

    def warn_once(self) -> None:
        """Show the first bad image to the user."""
        if self.has_warned or not self.rows:
            return
        self.has_warned = True
        first = next(iter(self.rows.values()))
        self.notify(
            f"warning: {printable(first['name'])} cannot be read ({first['reason']});"
            " another image stands in for it, and all such files are listed in"
            f" {self.folder / LIST_NAME}"
        )

    def check_limit(self, progress: SplitProgress) -> None:
        """Set `limit_error` if the split has too many bad images."""
        split, num_images = progress.split, progress.num_images
        count = self.counts_by_split[split]
        # the decimal fraction as the user wrote it: the binary 0.07 x 100 is above 7
        allowed = ceil(Fraction(str(self.limit)) * num_images)
        if self.limit_error or count <= allowed:
            return
        last = next(
            row for row in reversed(self.rows.values()) if row["split"] == split
        )
        others = " and beside it" if len(self.list_paths()) > 1 else ""
        self.limit_error = TooManyBadImagesError(
            f"{count} of {num_images} {split} images ({count / num_images:.2%}) cannot"
            f" be read so far; data.bad_limit={self.limit:g} allows {allowed};"
            f" {printable(last['name'])} cannot be read as an image"
            f" ({last['reason']}), and all are listed in"
            f" {self.folder / LIST_NAME}{others};"
            " mend or remove the files, or raise data.bad_limit and the same command"
            " goes on from the last checkpoint"
        )

    def count(self, split: str, step: int) -> int:
        """Return how many of a split all ranks have met by that step."""
        self.refresh()
        # another rank may have met the first one
        self.warn_once()
        return sum(
            row["split"] == split and row["step"] <= step for row in self.rows.values()
        )

    def merge(self) -> list[Row]:
        """Merge the ranks' lists into one, sorted by step, when the stage is done.

        Rank zero calls this.
        """
        self.refresh()
        rows = sorted(self.rows.values(), key=lambda row: (row["step"], row["name"]))
        if rows:
            write_text(self.folder / LIST_NAME, "".join(map(encode_row, rows)))
            for path in self.list_paths():
                if path.name != LIST_NAME:
                    path.unlink(missing_ok=True)
            number = "1 image" if len(rows) == 1 else f"{len(rows)} images"
            self.notify(f"  {number} could not be read: {self.folder / LIST_NAME}")
        return rows


def is_original(batch: Batch) -> Bool[Tensor, "B"]:
    """Return which images are the samples' own rather than substitutes."""
    bad_ids = torch.tensor(
        [image.id for image in batch.bad_images],
        dtype=torch.long,
        device=batch.ids_B.device,
    )
    return ~torch.isin(batch.ids_B, bad_ids)


def drop_substitutes(batch: Batch) -> tuple[Batch, int]:
    """Return the batch without substitutes, and how many images count.

    This is for measuring, where no image may count twice. If all are substitutes, they
    stay to be computed but count 0: under FSDP every rank has to take part.
    """
    if not batch.bad_images:
        return batch, len(batch.ids_B)
    original_B = is_original(batch)
    if not original_B.any():
        return batch, 0
    ids_B = batch.ids_B[original_B]
    originals = batch._replace(
        images_BCHW=batch.images_BCHW[original_B],
        labels_B=batch.labels_B[original_B],
        ids_B=ids_B,
    )
    return originals, len(ids_B)
