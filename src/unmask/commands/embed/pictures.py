"""Pictures of features: nearest neighbours of some images, and a map of all."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from matplotlib.figure import Figure
from torch import Tensor

from unmask.commands.embed.embedding import Embedding
from unmask.commands.embed.files import read_chunks, written_names
from unmask.data.images.tensors import bytes_to_shares
from unmask.data.images.unreadable import printable
from unmask.data.listing.names import utf8_name
from unmask.reconstructions import to_tiles
from unmask.storage.atomic import atomic_write

NUM_QUERIES = 8
NUM_NEIGHBOURS = 5
MAX_POINTS = 20_000  # of a map, evenly spread over the images
MAX_LEGEND = 20  # labels that colours can tell apart
MAX_TITLE = 18  # characters
DPI = 120


class Neighbours(NamedTuple):
    """The rows most similar to each of Q query rows, best first."""

    queries_Q: Int[Tensor, "Q"]
    rows_Qk: Int[Tensor, "Q k"]
    cosines_Qk: Float[Tensor, "Q k"]


class Named(NamedTuple):
    """Names and labels of the rows of a file, and the number of each row's image."""

    images: list[int]
    names: list[str]
    labels: list[str] | None


def draw_neighbours(embedding: Embedding, out: Path, path: Path) -> None:
    """Draw a row for each query: the image, then its neighbours with their cosines."""
    named = _named_rows(embedding, out)
    found = find_neighbours(out, len(named.names))
    columns = 1 + found.rows_Qk.shape[1]
    count = len(found.queries_Q)
    figure = Figure((1.5 * columns, 1.85 * count), layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False)
    for q, query in enumerate(found.queries_Q.tolist()):
        rows = [query, *found.rows_Qk[q].tolist()]
        cosines = [None, *found.cosines_Qk[q].tolist()]
        tiles = _tiles(embedding, [named.images[row] for row in rows])
        for axis, row, cosine, tile in zip(axes[q], rows, cosines, tiles, strict=True):
            axis.imshow(tile)
            axis.set_xticks([])
            axis.set_yticks([])
            text = named.labels[row] if named.labels else named.names[row]
            similarity = "" if cosine is None else f"\n{cosine:.3f}"
            axis.set_title(f"{_shorten(text)}{similarity}", fontsize=7)
        for spine in axes[q, 0].spines.values():
            spine.set_linewidth(2.5)
    _save(figure, path)


def find_neighbours(out: Path, count: int) -> Neighbours:
    """Compare some rows of a file, evenly spread, with all rows by their cosines.

    Raises ValueError where there is only one row.
    """
    if count < 2:
        raise ValueError(
            f"neighbours=true: {out} holds {count} image, which has no neighbours"
        )
    queries_Q = torch.linspace(0, count - 1, min(NUM_QUERIES, count)).long().unique()
    query_vectors = F.normalize(torch.from_numpy(_rows_at(out, queries_Q.numpy())))
    # itself is the nearest
    k = min(NUM_NEIGHBOURS, count - 1)
    best = torch.full((len(queries_Q), k), -2.0)
    rows = torch.zeros(len(queries_Q), k, dtype=torch.long)
    start = 0
    for chunk_RD in read_chunks(out):
        vectors = F.normalize(torch.from_numpy(chunk_RD))
        numbers_R = torch.arange(start, start + len(vectors))
        cosines_QR = query_vectors @ vectors.T
        cosines_QR[queries_Q[:, None] == numbers_R] = -2.0
        candidates = torch.cat([best, cosines_QR], dim=1)
        all_rows = torch.cat([rows, numbers_R.expand(len(queries_Q), -1)], dim=1)
        best, index = candidates.topk(k, dim=1)
        rows = all_rows.gather(1, index)
        start += len(vectors)
    return Neighbours(queries_Q, rows, best)


def draw_map(embedding: Embedding, out: Path, path: Path) -> str:
    """Draw all images in two dimensions, coloured by label; return by which method."""
    named = _named_rows(embedding, out)
    count = len(named.names)
    if count < 3:
        raise ValueError(f"map=true: {out} holds {count} images; a map needs three")
    step = -(-count // MAX_POINTS)
    rows_M = np.arange(0, count, step)
    labels = None if named.labels is None else [named.labels[row] for row in rows_M]
    axes_names: list[str] = []
    if find_spec("umap"):
        method = "UMAP"
        points_M2 = _umap(_rows_at(out, rows_M))
    else:
        method = "PCA"
        points_M2, shares = project(out, rows_M)
        axes_names = [
            f"component {k}: {share:.1%} of the variance"
            for k, share in enumerate(shares, 1)
        ]
    figure = Figure((7, 6), layout="constrained")
    axis = figure.subplots()
    _scatter(axis, points_M2, labels)
    if axes_names:
        axis.set_xlabel(axes_names[0])
        axis.set_ylabel(axes_names[1])
    else:
        axis.set_xticks([])
        axis.set_yticks([])
    part = "" if step == 1 else f"{len(rows_M)} of "
    axis.set_title(f"{method} of {part}{count} images", fontsize=10)
    _save(figure, path)
    return method


def project(
    out: Path, rows_M: Int[np.ndarray, "M"]
) -> tuple[Float[np.ndarray, "M 2"], tuple[float, float]]:
    """Return rows on the first two principal components of all, and their shares.

    The covariance is summed over the file, so that no more than a part is in memory.
    """
    count, width = 0, next(read_chunks(out)).shape[1]
    sum_D, products_DD = np.zeros(width), np.zeros((width, width))
    for chunk_RD in read_chunks(out):
        chunk = chunk_RD.astype(np.float64)
        count += len(chunk)
        sum_D += chunk.sum(axis=0)
        products_DD += chunk.T @ chunk
    mean_D = sum_D / count
    covariance_DD = products_DD / count - np.outer(mean_D, mean_D)
    variances_D, axes_DD = np.linalg.eigh(covariance_DD)
    axes_D2 = axes_DD[:, [-1, -2]]
    # eigenvectors have no sign of their own: the same map every time
    axes_D2 = axes_D2 * np.sign(axes_D2[np.abs(axes_D2).argmax(axis=0), [0, 1]])
    total = max(float(variances_D.sum()), 1e-30)
    shares = (float(variances_D[-1]) / total, float(variances_D[-2]) / total)
    return (_rows_at(out, rows_M) - mean_D) @ axes_D2, shares


def _umap(vectors_MD: Float32[np.ndarray, "M D"]) -> Float[np.ndarray, "M 2"]:
    import umap

    neighbours = min(15, len(vectors_MD) - 1)
    # a seed makes the same map every time, on one thread: it warns of other numbers
    reducer = umap.UMAP(
        n_neighbors=neighbours, metric="cosine", random_state=0, n_jobs=1
    )
    return np.asarray(reducer.fit_transform(vectors_MD))


def _scatter(
    axis: Any, points_M2: Float[np.ndarray, "M 2"], labels: list[str] | None
) -> None:
    size = float(np.clip(6000 / len(points_M2), 2, 40))
    names = sorted(set(labels or [""]))
    colours = mpl.colormaps["tab20" if len(names) <= MAX_LEGEND else "hsv"]
    for k, name in enumerate(names):
        is_own_M = np.array([label == name for label in labels or [""]])
        part_M2 = points_M2[is_own_M] if labels else points_M2
        place = k if len(names) <= MAX_LEGEND else k / len(names)
        axis.scatter(
            *part_M2.T, s=size, color=colours(place), label=_shorten(name), linewidths=0
        )
    if 1 < len(names) <= MAX_LEGEND:
        axis.legend(fontsize=7, markerscale=1.5, loc="best")


def _named_rows(embedding: Embedding, out: Path) -> Named:
    """Return the names of a file's rows, in its order."""
    skipped = _skipped(embedding, out)
    names = embedding.names()
    labels = embedding.labels()
    images = [i for i in range(len(names)) if i not in skipped]
    return Named(
        images,
        [names[i] for i in images],
        labels and [labels[i] for i in images],
    )


def _skipped(embedding: Embedding, out: Path) -> set[int]:
    """Return the images without a row: those whose name the file lacks."""
    written = written_names(out)
    names = embedding.names()
    if len(written) == len(names):
        return set()
    skipped = set()
    position = 0
    for i, name in enumerate(names):
        if position < len(written) and utf8_name(name) == utf8_name(written[position]):
            position += 1
        else:
            skipped.add(i)
    return skipped


def _rows_at(out: Path, rows_M: Int[np.ndarray, "M"]) -> Float32[np.ndarray, "M D"]:
    """Return some rows of a file, which are given in rising order."""
    parts = []
    start = 0
    for chunk_RD in read_chunks(out):
        stop = start + len(chunk_RD)
        inside = rows_M[(rows_M >= start) & (rows_M < stop)]
        parts.append(chunk_RD[inside - start])
        start = stop
    return np.concatenate(parts)


def _tiles(embedding: Embedding, images: list[int]) -> Any:
    """Return images as the encoder sees them, as 8-bit RGB."""
    batch = embedding.views().batch(0, images)
    return to_tiles(bytes_to_shares(batch.images_BCHW))


def _shorten(text: str) -> str:
    """Return the end of a name, which tells more than its folders."""
    text = printable(text).replace("$", r"\$")
    return text if len(text) <= MAX_TITLE else f"...{text[3 - MAX_TITLE :]}"


def _save(figure: Figure, path: Path) -> None:
    # a letter that no font has is drawn as a box
    warnings.filterwarnings("ignore", "Glyph .* missing")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI, facecolor="white")
