"""How training runs: devices, checkpoints, loss spikes, validation on the way."""

from typing import Annotated, Literal

from pydantic import Field

from unmask.config.section import Count, Positive, Section

# a precision that a result has
Settled = Literal["32-true", "bf16-mixed"]


class Trainer(Section):
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        description="kind of device to train on; auto: a GPU if there is one"
    )
    precision: Literal["32-true", "bf16-mixed", "auto"] = Field(
        description=(
            "precision of the model; targets and loss are float32 with any value; auto:"
            " bfloat16 where this machine computes the model faster in it, measured"
            " once for all cells of a sweep"
        )
    )
    # equal up to rounding
    kernels: Literal["measured", "default"] = Field(
        default="measured",
        description=(
            "how a CPU computes: with the kernels that are fastest here, measured once"
            " for each machine and model, and keeping the memory that is freed; or as"
            " without measuring"
        ),
    )
    # equal up to rounding
    compile: bool = Field(
        default=False,
        description=(
            "let torch.compile make kernels for the transformer blocks, which takes a"
            " minute; for GPUs: on two CPUs nothing was gained"
        ),
    )
    # memory depends on it, the result only by rounding
    micro_batch: Count | None = Field(
        description=(
            "images that a device processes at once; gradients add up over the batch;"
            " null: the device's whole share of the batch"
        )
    )
    devices: Count | None = Field(
        description=(
            "processes on each machine, one for each device, that train one model"
            " together; null: as many as there are GPUs"
        )
    )
    nodes: Count = Field(
        description=(
            "number of machines; the command is started on each by srun, submitit or"
            " torchrun"
        )
    )
    sharded: bool = Field(
        description=(
            "each device holds only a part of the weights, gradients and optimiser"
            " state (FSDP2); probes still hold whole copies"
        )
    )
    # micro_batch says how large parts are, split how many: a restarted run knows only
    # that they were too large
    split: Count = Field(
        description=(
            "split each batch into this many times as many micro-batches; a run that"
            " ran out of memory sets it to 2 and starts again"
        )
    )
    timeout_minutes: Positive = Field(
        description=(
            "end a run that has made no progress for this long, and write the stack"
            " traces of all processes to a file"
        )
    )
    # for queues with a time limit: what follows goes on from the checkpoint
    max_minutes: Positive | None = Field(
        description=(
            "after this long, save a checkpoint and leave with exit code 75, as on"
            " preemption; null: train to the end"
        )
    )
    requeue: bool = Field(
        description=(
            "after saving on SIGUSR1 or SIGUSR2, put the SLURM job back into the queue"
            " (never after SIGTERM)"
        )
    )


class Checkpoint(Section):
    every_minutes: Positive | None = Field(
        description="save a checkpoint this long after the last one; null: not by time"
    )
    every_steps: Count | None = Field(
        description=(
            "save a checkpoint after this many optimiser steps; null: not by steps"
        )
    )
    keep: Count = Field(description="how many checkpoints are kept during training")
    # to pick by validation and to report validation would flatter the result
    best: bool = Field(
        description=(
            "also keep the weights with the best validation; results are always those"
            " of the last weights"
        )
    )


class Spikes(Section):
    # not in the paper: off by default, and in the fingerprint where it is on
    factor: Annotated[float, Field(gt=1)] | None = Field(
        description=(
            "skip a step whose loss is more than this many times the mean loss of the"
            " steps before it; null: never skip"
        )
    )
    window: Count = Field(
        description=(
            "number of steps that the mean loss is taken over; the first steps, up to"
            " this number, are never skipped"
        )
    )
    limit: Annotated[int, Field(ge=0)] = Field(
        description="end the run if a stage would skip more steps than this"
    )


class Watch(Section):
    times: Count = Field(
        description=(
            "how often a stage validates during training; pretraining also draws"
            " reconstructions then"
        )
    )
    pictures: Count = Field(
        description="number of validation images that are reconstructed"
    )
    probe: Literal["knn", "linear"] | None = Field(
        default=None,
        description=(
            "measure the features whenever pretraining validates, as watch/<probe>, for"
            " you to look at: kNN, or a linear classifier by ridge regression; changes"
            " no result"
        ),
    )
    probe_images: Count = Field(
        default=5000,
        description="use at most so many training, and so many validation images",
    )
    trace: bool = Field(
        description=(
            "write trace.jsonl: for each step the loss and hashes of samples, pixels"
            " and masks (docs/exact.md)"
        )
    )
