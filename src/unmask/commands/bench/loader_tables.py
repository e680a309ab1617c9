"""What `src/bench.py loader` says: tables of what was measured, and what to do in a sentence."""

import statistics
from collections.abc import Iterator

from rich.table import Table

from unmask.commands.bench.loader import OFFICIAL, Found
from unmask.data.loading.module import TOGETHER
from unmask.distributed.processes import available_cores

ON_DEVICE = ("mirror, normalise", "copy to the GPU")  # after the loader
NAMED = 5  # bad files that are printed
WITHOUT = "fast, simplejpeg"  # where no decoder is built of this version's source
# of cores, over what the model takes: not every image is of the average size
SPARE = 1.2


def tables(found: Found) -> Iterator[Table]:
    yield _paths(found)
    if found.parts:
        yield _parts(found)
    yield _loaders(found)


def _paths(found: Found) -> Table:
    table = Table(
        "way", "ms an image", "images/s a core", "x official", title=found.images
    )
    official = found.paths[OFFICIAL]
    for name, taken in found.paths.items():
        # round by round: what else the machine does changes more slowly than that
        ratio = statistics.median(o / t for o, t in zip(official, taken, strict=True))
        middle = statistics.median(taken)
        table.add_row(
            name, f"{1000 * middle:.3f}", f"{1 / middle:,.0f}", f"{ratio:.2f}"
        )
    return table


def _parts(found: Found) -> Table:
    table = Table("step of the fast path", "ms an image", "share", "images/s a core")
    total = sum(found.parts.values())
    for name, taken in found.parts.items():
        pace = f"{1 / taken:,.0f}" if taken else ""
        table.add_row(name, f"{1000 * taken:.3f}", f"{100 * taken / total:.0f} %", pace)
    return table


def _loaders(found: Found) -> Table:
    processes, threads = found.spread
    where = (
        f"data.num_workers={processes} data.threads={threads}"
        if processes
        else "in this process"
    )
    table = Table("whole loader", "images/s", "x official", title=where)
    official = found.loaders.get(OFFICIAL)
    for name, pace in found.loaders.items():
        name += (
            f", {found.at_once} process{'es' if found.at_once > 1 else ''}"
            if name == OFFICIAL
            else ""
        )
        table.add_row(
            name, f"{pace:,.0f}", f"{pace / official:.2f}" if official else ""
        )
    if found.first:
        megabytes = found.first.pace * found.first.size / 1e6
        table.add_row(
            "files alone, read for the first time",
            f"{found.first.pace:,.0f}",
            f"{megabytes:,.0f} MB/s",
        )
    return table


def unread(found: Found) -> Iterator[str]:
    """Files of the sample that are no images, in whose place others were measured."""
    bad = found.first.bad if found.first else []
    yield from (f"left out: {error}" for error in bad[:NAMED])
    if len(bad) > NAMED:
        yield f"left out: {len(bad) - NAMED} more that cannot be read"


def used_path(found: Found, decode: str) -> str:
    """The way that a training with this data.decode goes here; of what a GPU decodes the loader's own way."""
    kind = "fast" if decode in ("auto", "nvjpeg") else decode
    return next(
        (name for name in found.paths if name.startswith(kind)), list(found.paths)[-1]
    )


def advice(found: Found, decode: str, need: float | None, device: str) -> str:
    """What limits, and what to set. need: images a second that the model takes."""
    path = used_path(found, decode)
    a_core = 1 / statistics.median(found.paths[path])
    ways = {name: taken for name, taken in found.parts.items() if name not in ON_DEVICE}
    step = f", mostly to {max(ways, key=lambda name: ways[name])}" if ways else ""
    said = f"A core reads {a_core:,.0f} images/s here ({path}){step}."
    if path == WITHOUT:
        said += " What `make native` builds reads JPEGs about 1.5 times as fast."
    if need is None:
        return said
    if found.first and found.first.pace < SPARE * need:
        return (
            f"{said} The model takes {need:,.0f} on {device}. The disk is the limit: it"
            f" gave {found.first.pace:,.0f} files/s; put them on a quicker one, or make"
            " them fewer and smaller: src/prepare.py with short_side=256"
        )
    wanted = max(1, round(SPARE * need / a_core + 0.5))
    said += (
        f" The model takes {need:,.0f} on {device}: {wanted}"
        f" {'core' if wanted == 1 else 'cores'} to read them."
    )
    if not found.parts:
        return f"{said} The images are in memory, there is nothing to set."
    here = max(1, available_cores() - 1)
    if wanted <= here:
        return f"{said} The model is the limit: {_settings(wanted)}."
    stored = [name for name in found.paths if "stored" in name]
    enough = next(
        (
            name
            for name in stored
            if SPARE * need * statistics.median(found.paths[name]) <= here
        ),
        None,
    )
    presize = (
        "src/prepare.py with"
        f" short_side=256{' format=raw' if enough != stored[0] else ''}"
    )
    ends = "is enough" if enough else "helps most, and is not enough"
    return (
        f"{said} Reading is the limit, {here} are free: {_settings(here)}; {presize}"
        f" {ends}."
    )


def _settings(wanted: int) -> str:
    threads = min(TOGETHER, wanted)
    return (
        f"data.num_workers={-(-wanted // threads)} data.threads={threads}"
        " data.decode=auto"
    )
