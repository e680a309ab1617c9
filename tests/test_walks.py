"""What a reader follows enters few files: the walks through `src/unmask` have budgets."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image

import unmask
from test_module import fake_trainer
from unmask.data.augment.crops import Augmentation
from unmask.data.listing.listing import list_images
from unmask.data.loading.batch import ImageFormat
from unmask.data.loading.folders import splits_from_listing
from unmask.data.loading.module import ImageData, LoaderSettings
from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.mae import MAE
from unmask.masking import RandomMasking
from unmask.targets import NormalisedPixel
from unmask.tasks.pretrain import Pretrain

PACKAGE = Path(unmask.__file__).parent
IMAGE_TO_LOSS = 14


def files_entered(walk: Callable[[], Any]) -> list[str]:
    """Return the files of the package whose functions run, in their order."""
    entered: dict[str, None] = {}

    def record(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            entered[str(path.relative_to(PACKAGE))] = None

    before = sys.getprofile()
    sys.setprofile(record)
    try:
        walk()
    finally:
        sys.setprofile(before)
    return list(entered)


def test_an_image_enters_few_files_on_its_way_from_a_jpeg_to_the_loss(
    tmp_path: Path,
) -> None:
    for i in range(20):
        path = tmp_path / f"class{i % 2}" / f"{i:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (48, 40), (9, 80, 200)).save(path)
    listing = list_images(tmp_path, holdout=0.5)
    train, val = splits_from_listing(listing, 3, (16, 16), in_memory=False)
    data = ImageData(
        train,
        val,
        ImageFormat((16, 16), (0.5,) * 3, (0.25,) * 3),
        Augmentation("random", flip=True),
        list(range(len(train))),
        4,
        0,
        LoaderSettings(0, threads=1),
    )
    data.trainer = fake_trainer()  # type: ignore[assignment]
    mae = MAE(Encoder((4, 4), 4, 3, 8, 2, 2), Decoder((4, 4), 8, 48, 8, 1, 2))
    task = Pretrain(mae, RandomMasking((4, 4), 0.75), NormalisedPixel(), 0, lambda _: _)
    keys = next(iter(data.train_dataloader().batch_sampler))  # type: ignore[arg-type]
    # what is computed once (a decoder that is tried out) is no part of the walk
    data.train_views.__getitems__(keys)

    def walk() -> None:
        batch = data.train_views.__getitems__(keys)
        task.training_step(data.on_after_batch_transfer(batch, 0), 0)

    entered = files_entered(walk)
    listed = "\n  ".join(entered)
    assert len(entered) <= IMAGE_TO_LOSS, f"{len(entered)} files:\n  {listed}"
    # the walk is followed to its end
    assert {"data/images/decoding.py", "targets.py"} <= set(entered)
