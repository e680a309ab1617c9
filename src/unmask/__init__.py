"""unmask: masked autoencoders (He et al. 2021, arXiv 2111.06377), as exact and repeatable experiments.

The map, lowest level first; imports go downwards only (a test says so):

    level 0   durable randomness masking patches positions losses schedules             torch only
    level 0   hog patch_pca targets                                             what is predicted
    level 0   corruption_error                                                  plain numbers
    level 1   encoder decoder mae tokenizers heads optim checkpoints reconstructions ratio_sheet   the model
    level 1   data/       listings and containers of images, decoding, keyed crops, bad images, the sampler, corruptions
    level 2   tasks/      LightningModules: pretrain, classify, features; kNN
    level 3   callbacks/  progress, journal, checkpoints while training, pictures, records of failed steps
    level 3   runs/       schema, fingerprint, ledger, plan, the execution of stages; experiments of the paper, prices
    level 4   reports/    tables, figures, pages; claims and verdicts

Axis letters, in signatures and on names that live past a line:

    B images in a batch    C channels    H W pixels     L patches of an image    V visible patches
    M hidden patches       P pixels of a patch (p * p * C)    D width    T tokens    N images of a set    K classes
"""
