"""The kinds of stages that a run is made of, and what sets them apart."""

from typing import Literal, get_args

StageKind = Literal[
    "patch_pca",
    "tokenizer",
    "pretrain",
    "knn",
    "linear_probe",
    "attentive_probe",
    "partial_finetune",
    "finetune",
    "scratch",
    "robustness",
]
# a model of these stages is trained by Lightning
TRAINED_STAGES = (
    "pretrain",
    "linear_probe",
    "attentive_probe",
    "partial_finetune",
    "finetune",
    "scratch",
)
# the encoder stays as it is, and only a head is trained
FROZEN_STAGES = ("linear_probe", "attentive_probe")
# the encoder itself is trained
ENCODER_STAGES = tuple(kind for kind in TRAINED_STAGES if kind not in FROZEN_STAGES)
# every stage with optimiser steps
STEPPED_STAGES = (*TRAINED_STAGES, "tokenizer")
# what a target needs to know of the training images before pretraining starts
FITTED_STAGES = ("patch_pca", "tokenizer")
UNLABELLED_STAGES = (*FITTED_STAGES, "pretrain")
LABELLED_STAGES: tuple[str, ...] = tuple(
    kind for kind in get_args(StageKind) if kind not in UNLABELLED_STAGES
)
