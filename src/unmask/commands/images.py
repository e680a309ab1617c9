"""Images that a command takes beside those of a data set: images=FILE or FOLDER."""

from pathlib import Path

from unmask.config.checks import ConfigError
from unmask.data.listing.conventions import IMAGE_SUFFIXES
from unmask.data.listing.listing import list_image_files


def find_images(path: Path) -> tuple[Path, list[str]]:
    """Return a folder, and the names of all images below it, sorted; or of one file.

    Raises ConfigError where there are none.
    """
    path = path.expanduser()
    if not path.exists():
        raise ConfigError(f"images={path}: no such file or folder")
    if path.is_file():
        return path.parent, [path.name]
    try:
        names = list_image_files(path, path)
    except ValueError as error:
        raise ConfigError(f"images={path}: {error}") from None
    if not names:
        raise ConfigError(
            f"images={path}: no images in it ({' '.join(sorted(IMAGE_SUFFIXES))}); to"
            " turn shards into a folder of images: src/prepare.py with format=folder"
        )
    return path, names
