"""Write the features of images to a file, and draw what they say."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from unmask.commands.embed.arguments import (
    Embed,
    check_embed_places,
    check_encoder,
    check_pictures,
)
from unmask.commands.foreign_weights import print_notes
from unmask.commands.out_file import PARQUET_SUFFIX
from unmask.commands.units import count_noun, format_number
from unmask.commands.wanted_images import find_wanted
from unmask.config.checks import ConfigError

if TYPE_CHECKING:
    from unmask.commands.embed.embedding import Embedding

SAVE_SECONDS = 10.0  # of work that a kill costs at most
MAX_SHOWN = 20  # images that are named as skipped


def run(arguments: Embed) -> Path:
    """Write features and pictures; return the file of features.

    Raises ConfigError for weights without an encoder, or a file of something else at
    `out`, ValueError where no image can be read.
    """
    check_embed_places(arguments)
    check_encoder(arguments)
    images = find_wanted(Path(arguments.images), arguments.count)
    check_pictures(arguments, len(images))
    # torch takes seconds: imported once the weights are checked
    from unmask.commands.embed.embedding import load_embedding
    from unmask.commands.embed.files import finished_job
    from unmask.commands.embed.partial import (
        begun_job,
        check_partial,
        describe_difference,
        only_writer,
        partial_folder,
    )

    embedding = load_embedding(arguments, images)
    out = Path(arguments.out)
    job = embedding.job()
    with only_writer(out):
        done = finished_job(out)
        is_done = done == job
        if done is not None and not is_done and not arguments.overwrite:
            what = describe_difference(done, job) if done else "something else"
            raise ConfigError(
                f"out={out}: exists, with features of {what}; give another place, or"
                " add overwrite=true"
            )
        if is_done:
            # what a kill after the last step left; rows of another job stay
            partial = partial_folder(out)
            if begun_job(partial) == job:
                shutil.rmtree(partial, ignore_errors=True)
            _say(
                f"{count_noun(len(embedding.images), 'image')}: {out} is there already"
            )
        else:
            check_partial(out, job, arguments.overwrite)
            _embed_all(embedding, out, job)
    print_notes(embedding.trained.notes)
    _draw(embedding, out)
    return out


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, markup=False, highlight=False)


def _embed_all(embedding: "Embedding", out: Path, job: dict) -> None:
    """Compute and write all rows, from where an earlier command stopped."""
    from unmask.commands.embed.files import finish
    from unmask.commands.embed.partial import PartialRows, as_dtype, require_space

    form = embedding.form()
    total = len(embedding.images)
    errors = Console(stderr=True, soft_wrap=True)
    with PartialRows(out, job, form) as rows:
        # Parquet is written of all rows, once they are there
        copies = 2 if out.suffix.lower() == PARQUET_SUFFIX else 1
        missing = copies * total - rows.rows
        require_space(out, missing * form.num_bytes)
        if rows.images:
            _say(f"{rows.images} of {total} images are there already")
        begun, started, saved = rows.images, time.monotonic(), time.monotonic()
        bar = Progress(console=errors, transient=True, disable=not errors.is_terminal)
        with bar:
            task = bar.add_task("images", total=total, completed=begun)
            try:
                for batch in embedding.batches(rows.images):
                    values = as_dtype(batch.features.numpy(), form.dtype)
                    rows.append(values, batch.images, batch.skipped)
                    bar.update(task, completed=rows.images)
                    if time.monotonic() - saved > SAVE_SECONDS:
                        rows.save()
                        saved = time.monotonic()
            except KeyboardInterrupt:
                rows.save()
                raise
        rows.save()
        for reason in list(rows.skipped.values())[:MAX_SHOWN]:
            errors.print(f"skipped: {reason}", markup=False, highlight=False)
        if not rows.rows:
            raise ValueError(f"none of {total} files can be read as an image")
        rate = (total - begun) / max(time.monotonic() - started, 1e-9)
        finish(out, rows, embedding.names(), embedding.labels())
    more = f", {len(rows.skipped)} skipped" if rows.skipped else ""
    shape = " x ".join(map(str, form.shape))
    count = count_noun(rows.rows, "image")
    _say(f"{count}{more}: {out}, {shape} each ({format_number(rate)} images/s)")


def _draw(embedding: "Embedding", out: Path) -> None:
    """Draw the pictures that are asked for, beside the features."""
    arguments = embedding.arguments
    if not arguments.neighbours and not arguments.map:
        return
    # matplotlib takes seconds
    from unmask.commands.embed.pictures import draw_map, draw_neighbours

    if arguments.neighbours:
        path = out.with_name(f"{out.stem}.neighbours.png")
        draw_neighbours(embedding, out, path)
        _say(f"neighbours: {path}")
    if arguments.map:
        path = out.with_name(f"{out.stem}.map.png")
        method = draw_map(embedding, out, path)
        _say(f"map, by {method}: {path}")
