"""Images of a source, read and transcoded one after the other for a shard."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from unmask.data.containers.shard_records import UNREAD_PREFIX
from unmask.data.containers.shard_tasks import ShardTask
from unmask.data.containers.transcode import Transcode
from unmask.data.containers.writers import Sample, content_digest
from unmask.data.images.unreadable import BadImageError, read_content, short_reason
from unmask.data.listing.catalogue import Catalogue


def read_source(catalogue: Catalogue, i: int) -> bytes | np.ndarray:
    """Read an image of the source. Raises BadImageError, never OSError.

    An OSError while a shard is written is taken for a fault of the target's disk.
    """
    try:
        return read_content(catalogue.store, i)
    except BadImageError as error:
        raise BadImageError(error.name, f"{UNREAD_PREFIX}{error.reason}") from error


class ConvertedImages:
    """Yield the images of a shard as they are stored, and note what was yielded.

    rows, digests, bad: as in ShardRecord; complete once all images are consumed.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        task: ShardTask,
        transcode: Transcode,
        labels: Int[np.ndarray, "N"],
    ) -> None:
        self.catalogue = catalogue
        self.task = task
        self.transcode = transcode
        self.labels = labels
        self.rows: list[list] = []
        self.digests: list[str] = []
        self.bad: list[list[str]] = []

    def __iter__(self) -> Iterator[Sample]:
        for i in self.task.indices.tolist():
            name = self.catalogue.names[i]
            label = int(self.labels[i])
            content = self._convert(i, name)
            if isinstance(content, bytes):
                size, shape = len(content), None
            else:
                size, shape = content.size, list(content.shape)
            # the offset is known once the shard is written
            self.rows.append([name, label, size, 0, shape])
            self.digests.append(content_digest(content))
            yield Sample(name, label, content)

    def _convert(self, i: int, name: str) -> bytes | np.ndarray:
        content: bytes | np.ndarray = b""
        try:
            content = read_source(self.catalogue, i)
            return self.transcode(content, name)
        # Pillow raises anything for a bad image
        except Exception as error:
            self.bad.append([name, short_reason(error)])
            if self.transcode.channels is None:
                return content
            # there are no raw pixels; training takes an empty array for a bad image
            return np.zeros((0, 0, self.transcode.channels), np.uint8)
