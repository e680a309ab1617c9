"""Tables and advice that `src/bench.py loader` prints."""

import statistics
from collections.abc import Iterator

from rich.table import Table

from unmask.commands.bench.loader import LoadingCosts
from unmask.commands.bench.measure import make_table, median_ratio
from unmask.commands.bench.reading_paths import OFFICIAL
from unmask.data.loading.module import THREADS_PER_WORKER
from unmask.distributed.processes import available_cores

# parts that come after the loader
DEVICE_PARTS = ("normalise", "copy to the GPU")
MAX_PRINTED = 5  # bad images that are printed by name
# the fastest path where `make native` has not built the decoder
WITHOUT_NATIVE = "fast, simplejpeg"
# cores above what the model needs: not every image is of the average size
SPARE_FACTOR = 1.2


def loading_tables(costs: LoadingCosts) -> Iterator[Table]:
    yield _paths_table(costs)
    if costs.parts:
        yield _parts_table(costs)
    yield _loaders_table(costs)


def _paths_table(costs: LoadingCosts) -> Table:
    official = costs.paths[OFFICIAL]
    rows = []
    for name, seconds in costs.paths.items():
        median = statistics.median(seconds)
        ratio = median_ratio(official, seconds)
        rows.append(
            (name, f"{1000 * median:.3f}", f"{1 / median:,.0f}", f"{ratio:.2f}")
        )
    header = ("way", "ms an image", "images/s a core", "x official")
    return make_table(costs.images_description, header, rows)


def _parts_table(costs: LoadingCosts) -> Table:
    total = sum(costs.parts.values())
    rows = []
    for name, seconds in costs.parts.items():
        # a step can be too short for the clock
        pace = f"{1 / seconds:,.0f}" if seconds else ""
        share = f"{100 * seconds / total:.0f} %"
        rows.append((name, f"{1000 * seconds:.3f}", share, pace))
    header = ("step of the fast path", "ms an image", "share", "images/s a core")
    return make_table(None, header, rows)


def _loaders_table(costs: LoadingCosts) -> Table:
    processes, threads = costs.spread
    title = "in this process"
    if processes:
        title = f"data.num_workers={processes} data.threads={threads}"
    official = costs.loaders.get(OFFICIAL)
    rows = []
    for name, pace in costs.loaders.items():
        if name == OFFICIAL:
            plural = "es" if costs.concurrent_reads > 1 else ""
            name = f"{name}, {costs.concurrent_reads} process{plural}"
        ratio = f"{pace / official:.2f}" if official else ""
        rows.append((name, f"{pace:,.0f}", ratio))
    if costs.first_read:
        name = "files alone, read for the first time"
        pace = costs.first_read.images_per_second
        megabytes = pace * costs.first_read.mean_bytes / 1e6
        rows.append((name, f"{pace:,.0f}", f"{megabytes:,.0f} MB/s"))
    return make_table(title, ("whole loader", "images/s", "x official"), rows)


def list_bad_images(costs: LoadingCosts) -> Iterator[str]:
    """Yield a line for each bad image of the sample; they were not measured."""
    bad_images = costs.first_read.bad_images if costs.first_read else []
    for error in bad_images[:MAX_PRINTED]:
        yield f"left out: {error}"
    if len(bad_images) > MAX_PRINTED:
        yield f"left out: {len(bad_images) - MAX_PRINTED} more that cannot be read"


def path_in_training(costs: LoadingCosts, decode: str) -> str:
    """Return the name of the path that a training with data.decode=... takes here.

    What nvJPEG cannot decode goes the fast path, too. Images in memory have their own.
    """
    prefix = "fast" if decode in ("auto", "nvjpeg") else decode
    for name in costs.paths:
        if name.startswith(prefix):
            return name
    return list(costs.paths)[-1]


def loading_advice(
    costs: LoadingCosts, decode: str, needed: float | None, device: str
) -> str:
    """Say what limits the training, and what to set.

    needed: images a second that the model takes; None where that is not known.
    """
    path = path_in_training(costs, decode)
    core_pace = 1 / statistics.median(costs.paths[path])
    text = (
        f"A core reads {core_pace:,.0f} images/s here ({path}{_slowest_part(costs)})."
    )
    if path == WITHOUT_NATIVE:
        text += " The decoder of `make native` reads JPEGs about 1.2 times as fast."
    if needed is None:
        return text
    first_read = costs.first_read
    if first_read and first_read.images_per_second < SPARE_FACTOR * needed:
        return (
            f"{text} The model takes {needed:,.0f} on {device}. The disk is the limit:"
            f" it gave {first_read.images_per_second:,.0f} files/s; put the files on a"
            " faster one, or make them fewer and smaller: src/prepare.py with"
            " short_side=256"
        )
    # rounded up
    cores = max(1, round(SPARE_FACTOR * needed / core_pace + 0.5))
    text += (
        f" The model takes {needed:,.0f} on {device}: {cores}"
        f" {'core' if cores == 1 else 'cores'} to read them."
    )
    if not costs.parts:
        return f"{text} The images are in memory, there is nothing to set."
    # one core is for the training itself
    free_cores = max(1, available_cores() - 1)
    if cores <= free_cores:
        return f"{text} The model is the limit: {_settings(cores)}."
    copies = _smaller_copies_advice(costs, needed, free_cores)
    return (
        f"{text} Reading is the limit; {free_cores} cores are free:"
        f" {_settings(free_cores)}; {copies}."
    )


def _slowest_part(costs: LoadingCosts) -> str:
    parts = {
        name: seconds
        for name, seconds in costs.parts.items()
        if name not in DEVICE_PARTS
    }
    if not parts:
        return ""
    return f"; slowest step: {max(parts, key=lambda name: parts[name])}"


def _smaller_copies_advice(costs: LoadingCosts, needed: float, free_cores: int) -> str:
    """Say which smaller copies of the images would be read fast enough."""
    stored = [name for name in costs.paths if "stored" in name]
    fast_enough = [
        name
        for name in stored
        if SPARE_FACTOR * needed * statistics.median(costs.paths[name]) <= free_cores
    ]
    # JPEGs come first: they take far less disk than raw pixels
    raw = "" if fast_enough[:1] == stored[:1] else " format=raw"
    verdict = "is enough" if fast_enough else "helps most, and is not enough"
    return f"src/prepare.py with short_side=256{raw} {verdict}"


def _settings(cores: int) -> str:
    threads = min(THREADS_PER_WORKER, cores)
    workers = -(-cores // threads)
    return f"data.num_workers={workers} data.threads={threads} data.decode=auto"
