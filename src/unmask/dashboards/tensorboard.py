"""A stage in TensorBoard: one event file, written without torch."""

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from unmask.dashboards.card import Card
from unmask.dashboards.names import Row, dashboard_row

if TYPE_CHECKING:
    from unmask.dashboards.follower import Media

# TensorBoard's number of a string tensor
DT_STRING = 7
RGB = 3


class TensorBoard:
    """Write all rows of the stage into one event file, replacing earlier attempts'."""

    def __init__(self, card: Card, folder: Path) -> None:
        self.name = "TensorBoard"
        self.remedy = "an attempt that goes on writes all rows again"
        self.card = card
        self.folder = folder
        self.writer: EventFileWriter | None = None

    def open(self) -> None:
        earlier = list(self.folder.glob("events.out.tfevents.*"))
        self.writer = EventFileWriter(str(self.folder))
        # one that has read the earlier files forgets their rows
        restart = SessionLog(status=SessionLog.START)
        self.writer.add_event(Event(step=0, session_log=restart))
        self._add(0, _text("run", f"{self.card.name}\n\n    {self.card.notes}"))
        self.writer.flush()
        for path in earlier:
            path.unlink()

    def log(self, row: Row, media: "Media") -> None:
        for key, value in dashboard_row(self.card.prefix, row).items():
            self._add(row["step"], Summary.Value(tag=key, simple_value=value))
        if media.picture:
            image = _image(f"{self.card.prefix}/reconstructions", media.picture)
            self._add(row["step"], image)

    def close(self, code: int) -> None:
        if self.writer:
            self.writer.close()

    def _add(self, step: int, value: Summary.Value) -> None:
        assert self.writer
        self.writer.add_event(Event(step=step, summary=Summary(value=[value])))


def _text(tag: str, text: str) -> Summary.Value:
    content = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
    metadata = create_summary_metadata(tag, "")
    return Summary.Value(tag=tag, tensor=content, metadata=metadata)


def _image(tag: str, path: Path) -> Summary.Value:
    with Image.open(path) as image:
        width, height = image.size
    content = Summary.Image(
        height=height,
        width=width,
        colorspace=RGB,
        encoded_image_string=path.read_bytes(),
    )
    return Summary.Value(tag=tag, image=content)
