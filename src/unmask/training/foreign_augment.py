"""An augmentation of the user's is tried on two images, before anything expensive."""

import torch

from unmask.config.augmentation import stage_augment
from unmask.config.schema import Config
from unmask.data.augment.own import OwnAugmentation
from unmask.randomness import make_key, random_words
from unmask.training import build

NUM_IMAGES = 2


def check_augmentation(config: Config, stage: str) -> None:
    """Raise ValueError unless it changes each image in its own way, and no shape."""
    augment = stage_augment(config, stage)
    assert augment is not None
    part = build.build_own_augmentation(augment)
    if not callable(part):
        raise ValueError("it lacks __call__")
    change = OwnAugmentation(part, make_key(config.seed, "augment"))
    ids = torch.arange(NUM_IMAGES)
    shape = NUM_IMAGES, config.data.channels, *config.stage_image_size(stage)
    words_BP = random_words(
        make_key(0, "trial"), 0, ids, shape[1] * shape[2] * shape[3]
    )
    images_BCHW = (words_BP & 255).to(torch.uint8).view(shape)
    changed = change(images_BCHW.clone(), 0, ids)
    again = change(images_BCHW.clone(), 0, ids)[1:]
    alone = change(images_BCHW[1:].clone(), 0, ids[1:])
    if not (torch.equal(again, changed[1:]) and torch.equal(alone, changed[1:])):
        raise ValueError(
            "it changes an image otherwise from call to call, or with the other images"
            " of the batch; draw from key, epoch and id alone (unmask.randomness)"
        )
