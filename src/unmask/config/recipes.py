"""The kinds of stages: the recipe of each, its row in the table, its config section.

Whatever differs from kind to kind is asked of the table (`STAGES`): the order of a
run, titles, controls, prices, the page and what `src/verify.py` compares.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from unmask.config.probes import EXACT, FROZEN_POOLING, AnyProbe, ExactProbe
from unmask.config.recipe_parts import (
    FineTuning,
    FrozenPooling,
    LabelledImages,
    Schedule,
)
from unmask.config.robustness import (
    Robustness,
    check_robustness,
    describe_robustness,
)
from unmask.config.section import (
    IS_PATH,
    Count,
    NonNegative,
    Positive,
    Section,
    Seed,
)
from unmask.config.task import Task, check_task, describe_task


class Recipe(Section, Schedule):
    """How pretraining is optimised (Table 8)."""


class TokenizerRecipe(Section, Schedule):
    """Where the tokens of target=dvae come from, and how a small dVAE is trained.

    This section stands at the root and not below target: a table's rows with other
    targets then accept its keys too.
    """

    file: Annotated[str, Field(min_length=1), IS_PATH] | None = Field(
        description=(
            "file with the encoder of DALL-E's dVAE; null: train a small dVAE on the"
            " data (stage tokenizer)"
        )
    )
    seed: Seed = Field(
        description=(
            "seed of the dVAE's training; apart from `seed`, so that runs with other"
            " seeds share one tokenizer"
        )
    )
    codes: Annotated[int, Field(ge=2, le=65_536)] = Field(
        description="number of codes in the codebook (DALL-E: 8192)"
    )
    width: Count = Field(description="channels of the dVAE's convolutions")
    usage_weight: NonNegative = Field(
        description=(
            "weight of the loss term that pushes all codes to be used equally often"
        )
    )


class AttentiveProbe(Section, LabelledImages, Schedule):
    """A learned query attends to all frozen patch tokens, then a linear head."""

    heads: Count = Field(description="attention heads of the pooling layer")


class FineTune(Section, FineTuning, LabelledImages, Schedule):
    """The encoder is trained as well (Tables 9 and 11)."""


class PartialFineTune(Section, FineTuning, LabelledImages, Schedule):
    """Only the last blocks of the encoder are trained (Fig. 9)."""

    # a number with a half: Fig. 9 has a point for the MLP of the last block
    blocks: Annotated[float, Field(ge=0)] = Field(
        description=(
            "how many of the last blocks are trained (Fig. 9); 0: only what follows the"
            " blocks; 0.5: also the MLP of the last block"
        )
    )


class Knn(Section):
    """How the nearest training images classify the validation images."""

    k: Count = Field(description="number of nearest neighbours that vote")
    # Wu et al. 2018
    temperature: Positive = Field(
        description="the weight of a vote is exp(cosine similarity / temperature)"
    )
    pool: FrozenPooling = FROZEN_POOLING
    labels: Count | None = Field(
        description="number of labelled images in the kNN bank; null: all"
    )


class StageRecipes(BaseModel):
    """The sections of the config that hold the stages' recipes; Config has them all."""

    tokenizer: TokenizerRecipe
    pretrain: Recipe
    knn: Knn
    linear_probe: AnyProbe
    attentive_probe: AttentiveProbe
    partial_finetune: PartialFineTune
    finetune: FineTune
    scratch: FineTune
    robustness: Robustness
    # with a default: configs of older ledgers lack it
    task: Task = Task()


def _check_partial(config: Any) -> Iterator[str]:
    blocks, depth = config.partial_finetune.blocks, config.model.depth
    # half a block is its MLP (Fig. 9)
    if blocks not in (0.5, *range(depth + 1)):
        yield (
            f"partial_finetune.blocks = {blocks:g}: give 0, 0.5 (the last MLP) or a"
            f" whole number up to {depth}"
        )


def _check_attentive(config: Any) -> Iterator[str]:
    heads, width = config.attentive_probe.heads, config.model.width
    if width % heads:
        yield (
            f"attentive_probe.heads = {heads}: does not divide model.width={width}; set"
            f" attentive_probe.heads={config.model.heads}"
        )


def describe_training(recipe: Any, result: dict[str, Any]) -> str:
    """Say in a few words how a stage was trained, for the page of a run."""
    return (
        f"{recipe.optimizer}, {recipe.epochs} epochs, batch"
        f" {result['metrics']['batch_size']}, base lr {recipe.base_lr:g}"
    )


def _describe_probe(recipe: Any, result: dict[str, Any]) -> str:
    if not isinstance(recipe, ExactProbe):
        return describe_training(recipe, result)
    metrics = result["metrics"]
    return (
        f"logistic regression, solved in {metrics['iterations']:,.0f} iterations,"
        f" penalty {metrics['penalty']:g}"
    )


def _describe_attentive(recipe: Any, result: dict[str, Any]) -> str:
    return f"{describe_training(recipe, result)}, attention pooling"


def _describe_knn(recipe: Any, result: dict[str, Any]) -> str:
    return f"k = {recipe.k}, cosine, temperature {recipe.temperature:g}"


def _describe_pca(recipe: Any, result: dict[str, Any]) -> str:
    return f"{result['metrics']['patches']:,.0f} patches, centred, not whitened"


@dataclass(frozen=True)
class StageKind:
    """What one kind of stage is to the rest of the program.

    title: what results call a stage, with values of its recipe. role: whether it fits
    what a target needs (`target` names that class), pretrains, or measures. trains:
    what its optimiser trains; None where there are no steps. parent: the stage whose
    weights it starts from; None: random ones or its images alone. controls: starts that
    are measured for comparison. is_seeded: whether the seed changes its result where
    all images are used. name, noun: what tables, and sentences, call the whole kind.
    check: yields an error message for each value of the config that does not fit it.
    describe: says for the page of a run how it was trained or measured. result_version:
    part of its fingerprint; raise it when a change of the code changes the results of
    this kind, and of no other (of all kinds: RESULT_VERSION in stages/fingerprint.py).
    modules: what this kind alone runs; a change of them is no drift of other results.
    """

    title: str
    role: Literal["target", "pretraining", "measurement"] = "measurement"
    trains: Literal["encoder", "head", "dvae"] | None = None
    parent: Literal["pretraining", "classifier"] | None = "pretraining"
    controls: tuple[str, ...] = ()
    target: str = ""
    is_seeded: bool = True
    name: str = ""
    noun: str = ""
    check: Callable[[Any], Iterable[str]] = lambda config: ()
    describe: Callable[[Any, dict[str, Any]], str] = describe_training
    result_version: int = 0
    modules: tuple[str, ...] = ()


STAGES = {
    "patch_pca": StageKind(
        "PCA of patches",
        role="target",
        parent=None,
        target="unmask.targets.PatchPCA",
        describe=_describe_pca,
        modules=("training.fitted_targets",),
    ),
    "tokenizer": StageKind(
        "own dVAE",
        role="target",
        trains="dvae",
        parent=None,
        target="unmask.targets.Tokens",
        modules=("tasks.tokenizer",),
    ),
    "pretrain": StageKind(
        "pretrain", role="pretraining", trains="encoder", parent=None
    ),
    "knn": StageKind(
        "kNN",
        controls=("random", "pixels"),
        is_seeded=False,
        describe=_describe_knn,
        modules=("tasks.knn",),
    ),
    "linear_probe": StageKind(
        "linear probe",
        trains="head",
        controls=("random", "pixels"),
        describe=_describe_probe,
        modules=("tasks.regression", "training.exact_probe"),
    ),
    "attentive_probe": StageKind(
        "attentive probe",
        trains="head",
        controls=("random",),
        check=_check_attentive,
        describe=_describe_attentive,
    ),
    "partial_finetune": StageKind(
        "fine-tune, {blocks:g} last blocks",
        trains="encoder",
        controls=("random",),
        name="fine-tune",
        check=_check_partial,
        noun="partial fine-tuning",
    ),
    # fine-tuning a random encoder is what `scratch` does
    "finetune": StageKind(
        "fine-tune", trains="encoder", controls=("pixels",), noun="fine-tuning"
    ),
    "scratch": StageKind("scratch", trains="encoder", parent=None, noun="from scratch"),
    "robustness": StageKind(
        "robustness of {of}, {source}",
        parent="classifier",
        name="robustness",
        check=check_robustness,
        describe=describe_robustness,
        modules=(
            "data.augment.corruptions",
            "training.corruption_error",
            "training.robustness",
        ),
    ),
    "task": StageKind(
        "task {part}",
        controls=("random", "pixels"),
        name="task",
        check=check_task,
        describe=describe_task,
        modules=("tasks.own_task", "training.own_task"),
    ),
}
if TYPE_CHECKING:
    StageName = str
else:
    # pydantic names the kinds there are where another one is typed
    StageName = Literal[tuple(STAGES)]


def _kinds_where(belongs: Callable[[StageKind], bool]) -> tuple[str, ...]:
    return tuple(kind for kind, row in STAGES.items() if belongs(row))


# what a target needs to know of the training images before pretraining starts
FITTED_STAGES = _kinds_where(lambda row: row.role == "target")
LABELLED_STAGES = _kinds_where(lambda row: row.role == "measurement")
# every stage with optimiser steps
STEPPED_STAGES = _kinds_where(lambda row: row.trains is not None)
# the encoder stays as it is, and only a head is trained
FROZEN_STAGES = _kinds_where(lambda row: row.trains == "head")
# the encoder itself is trained
ENCODER_STAGES = _kinds_where(lambda row: row.trains == "encoder")
# an encoder or a head on it is trained, by all processes together
TRAINED_STAGES = _kinds_where(lambda row: row.trains in ("encoder", "head"))
FINE_TUNING_STAGES = tuple(k for k in LABELLED_STAGES if k in ENCODER_STAGES)
# nothing is trained: there is nothing to interrupt and to compare
MEASURING_STAGES = tuple(k for k in LABELLED_STAGES if k not in TRAINED_STAGES)
PRICED_STAGES = (*TRAINED_STAGES, *MEASURING_STAGES)


def makes_steps(config: Any, kind: str) -> bool:
    """Tell whether a stage is trained in steps, with this config."""
    return kind in STEPPED_STAGES and is_stepped(getattr(config, kind))


def is_stepped(recipe: Any) -> bool:
    """Tell whether a recipe is of steps: an exact probe has none."""
    return isinstance(recipe, Schedule)


def draws_numbers(kind: str, recipe: dict[str, Any]) -> bool:
    """Tell whether the seed changes what the stage makes of all images."""
    return STAGES[kind].is_seeded and recipe.get("optimizer") != EXACT


def stage_name(kind: str) -> str:
    """Return what tables call all stages of a kind."""
    return STAGES[kind].name or STAGES[kind].title


def stage_noun(kind: str) -> str:
    """Return what sentences call all stages of a kind."""
    return STAGES[kind].noun or stage_name(kind)
