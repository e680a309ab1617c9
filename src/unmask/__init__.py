"""Masked autoencoders (He et al. 2021, arXiv 2111.06377), exact and repeatable.

The map. A package imports from those below it, never from those above (`make check`).

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
