"""Classes of images by a classifier on disk, seen as evaluation sees them."""

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from unmask.config.arguments import Predict
from unmask.config.checks import ConfigError
from unmask.data.images.unreadable import shown as printable
from unmask.data.listing.listing import SUFFIXES, image_files
from unmask.data.listing.names import Names
from unmask.data.loading.batch import Batch, normalised
from unmask.data.loading.folders import Files, Folder
from unmask.data.loading.views import Views
from unmask.exchange.geometry import Hints
from unmask.storage.atomic import replacing
from unmask.training.classifiers import Ready, load_ready

SHOWN = 20


@dataclass(frozen=True)
class Predictions:
    """Images that could be read, the probabilities of all classes, and what is wrong with the other files."""

    names: tuple[str, ...]
    probabilities_NK: Float[Tensor, "N K"]
    classes: tuple[str, ...]
    top: int
    faults: tuple[str, ...]
    assumed: str = ""  # what weights of others do not tell of the images they want

    def rows(self) -> list[list[tuple[str, float]]]:
        """The most probable classes of each image, best first."""
        best = self.probabilities_NK.topk(min(self.top, len(self.classes)))
        return [
            [(self.classes[k], p) for p, k in zip(values, indices, strict=True)]
            for values, indices in zip(
                best.values.tolist(), best.indices.tolist(), strict=True
            )
        ]


def predict(given: Predict) -> Predictions:
    """Raises ConfigError for wrong arguments, ValueError where not one of the images can be read."""
    if given.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device=cuda: torch finds no GPU here; use device=auto or device=cpu"
        )
    if given.out and not Path(given.out).absolute().parent.is_dir():
        raise ConfigError(
            f"out={given.out}: its folder does not exist; make it, or give another"
            " place"
        )
    root, files = _files(Path(given.images), given.count)
    hints = Hints(heads=given.heads, grid=given.grid)
    ready = load_ready(
        Path(given.checkpoint).expanduser(),
        hints,
        given.eval_crop,
        Path(given.classes) if given.classes else None,
    )
    device = "cuda" if given.device != "cpu" and torch.cuda.is_available() else "cpu"
    ready.model.to(device)
    readable, parts, faults = [], [], []
    for start in range(0, len(files), ready.at_once):
        names, images, bad = _read(root, files[start : start + ready.at_once], ready)
        readable += names
        faults += bad
        if images:
            parts.append(_probabilities(ready, torch.cat(images), device))
    if not parts:
        raise ValueError(
            "\n".join(
                [*faults[:SHOWN], f"none of {len(files)} files can be read as an image"]
            )
        )
    return Predictions(
        tuple(readable),
        torch.cat(parts),
        ready.classes,
        given.top,
        tuple(faults),
        _assumed(ready) if ready.of_others else "",
    )


def _files(place: Path, count: int | None) -> tuple[Path, list[str]]:
    """The folder, and the images in it by name."""
    place = place.expanduser()
    if not place.exists():
        raise ConfigError(f"images={place}: no such file or folder")
    root, names = (
        (place, image_files(place, place))
        if place.is_dir()
        else (place.parent, [place.name])
    )
    if not names:
        raise ConfigError(
            f"images={place}: no images in it ({' '.join(sorted(SUFFIXES))}); shards"
            " are made a folder of images by src/prepare.py with format=folder"
        )
    return root, names[:count]


def _read(
    root: Path, names: list[str], ready: Ready
) -> tuple[list[str], list[UInt8[Tensor, "1 C H W"]], list[str]]:
    """Names and evaluation's crops of the files that can be read, and what is said of the others."""
    files = Files(
        Folder(root, Names(names)), torch.full((len(names),), -1), ready.channels
    )
    # nothing stands in for what cannot be read
    views = Views(files, ready.form, None, seed=0, stand_ins=False)

    def crop(i: int) -> Tensor | ValueError:
        try:
            return views.__getitems__([(0, i)]).images_BCHW
        except ValueError as error:
            return error

    with ThreadPoolExecutor() as pool:
        read = list(zip(names, pool.map(crop, range(len(names))), strict=True))
    images = {name: image for name, image in read if isinstance(image, Tensor)}
    return (
        list(images),
        list(images.values()),
        [str(error) for _, error in read if isinstance(error, ValueError)],
    )


@torch.no_grad()
def _probabilities(
    ready: Ready, images_BCHW: UInt8[Tensor, "B C H W"], device: str
) -> Float[Tensor, "B K"]:
    ids = torch.arange(len(images_BCHW))
    batch = normalised(Batch(images_BCHW.to(device), ids, ids, 0, None), ready.form)
    with torch.autocast(device, torch.bfloat16, enabled=ready.bfloat16):
        logits_BK = ready.model(batch.images_BCHW)
    return logits_BK.float().softmax(dim=1).cpu()


def table(found: Predictions, shown: int | None) -> Table:
    """A row an image, of the first `shown` or of all."""
    best = found.rows()[:shown]
    columns = Table("image", *(str(place) for place in range(1, len(best[0]) + 1)))
    for name, row in zip(found.names, best, strict=False):
        columns.add_row(
            escape(printable(name)),
            *(f"{escape(label)} {100 * p:.1f} %" for label, p in row),
        )
    return columns


def write_csv(found: Predictions, path: Path) -> None:
    """All images: name, then each class with its probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = found.rows()
    places = range(1, len(rows[0]) + 1)
    writer.writerow(
        [
            "image",
            *(
                cell
                for place in places
                for cell in (f"class_{place}", f"probability_{place}")
            ),
        ]
    )
    for name, row in zip(found.names, rows, strict=True):
        writer.writerow(
            [name, *(cell for label, p in row for cell in (label, f"{p:.6f}"))]
        )
    with replacing(path) as file:
        # names that are not UTF-8 as the disk has them
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def _assumed(ready: Ready) -> str:
    form = ready.form
    return (
        f"assumed of these weights: {form.shape[0]} x {form.shape[1]} pixels, mean"
        f" {list(form.mean)}, std {list(form.std)}, centre crop {form.eval_crop:g}"
        " (eval_crop=...)"
    )
