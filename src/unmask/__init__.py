"""Masked autoencoders (He et al. 2021, arXiv 2111.06377), exact and repeatable.

    model = unmask.load("runs/pretrain/<fingerprint>")
    model.encode("photos/")        # features; also reconstruct, classify

See docs/library.md. What is offered is imported when it is first used: torch takes
seconds.

The map. A package imports from those below it, never from those above (`make check`).

    library/       what `import unmask` offers
    reports/       one page a run; the tables, figures and verdicts beside the paper's
    commands/      one file or folder for each script in src/
    training/      how a stage is built, fitted and measured
    callbacks/     during a training: checkpoints, metrics, pictures, records
    tasks/         LightningModules: pretrain, classify, tokenizer; kNN features
    stages/        a run's stages, their fingerprints and folders in the ledger
    exchange/      weights in the formats of other projects
    data/          listings, containers, decoding, augmentation and loading of images
    (this folder)  the model: one file for each part, see below
    distributed/   several processes that train one model; the launcher, SLURM
    config/        what may be typed on the command line, and its checks; no torch
    storage/       files that survive a crash: atomic writes, metrics log, checkpoints

runs/ stands aside: it only keeps an import path that jobs queued by 0.1 still use.

The model, in the order in which an image passes through it:

    patches          images to patches and back; fixed positions
    masking          which patches are hidden
    encoder          the ViT that sees the visible patches
    decoder          the small transformer that predicts the hidden patches
    mae              both together
    targets          what is predicted, and the losses; uses hog, patch_pca, tokenizers
    heads            classifiers on a pretrained encoder
    drop_path        stochastic depth
    initialisation   initial weights
    optim            optimisers and the learning rate's schedule
    reconstructions  pictures of predictions
    randomness       every random number, as a function of (seed, purpose, step, sample)

Axis letters, in signatures and on names that live longer than a line:

    B  images of a batch          N  images of a data set
    C  channels                   H W  pixels, h w  rows and columns of patches
    L  patches of an image        V  visible patches, M  hidden patches
    P  values of a patch, patch_size**2 * C
    T  tokens                     D  width
    K  classes, codes or components
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unmask.library.errors import InputError as InputError
    from unmask.library.images import list_images as list_images
    from unmask.library.load import load as load
    from unmask.library.model import Model as Model
    from unmask.library.results import Classification as Classification
    from unmask.library.results import Reconstructed as Reconstructed

# by name: the module that has it
_OFFERED = {
    "Classification": "unmask.library.results",
    "InputError": "unmask.library.errors",
    "Model": "unmask.library.model",
    "Reconstructed": "unmask.library.results",
    "list_images": "unmask.library.images",
    "load": "unmask.library.load",
}
__all__ = [
    "Classification",
    "InputError",
    "Model",
    "Reconstructed",
    "list_images",
    "load",
]


def __getattr__(name: str) -> object:
    """Import what is offered when it is first asked for."""
    if name not in _OFFERED:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    # not at the top: no command shall wait for it
    from importlib import import_module

    value = getattr(import_module(_OFFERED[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_OFFERED]
