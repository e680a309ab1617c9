"""The step benchmark: the same work in every contestant, in turn, in processes of their own."""

import csv
import dataclasses
import textwrap
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from small_runs import call
from unmask import kernels
from unmask.commands.bench import entries, step, step_worker
from unmask.commands.bench.arguments import Bench
from unmask.commands.bench.contestants import ours as ours_module
from unmask.commands.bench.contestants.built import copy_weights, truncated_ratio
from unmask.commands.bench.contestants.ours import build_our_mae, build_ours
from unmask.commands.bench.entries import (
    NO_TRICKS,
    TRICKS,
    Entry,
    Settings,
    absence_notes,
    list_entries,
)
from unmask.commands.bench.measure import Contestant, time_in_turn
from unmask.commands.bench.step import StepResults, Timed, Worker, compare_steps
from unmask.commands.bench.step_messages import END, TURN, Facts, Request
from unmask.commands.bench.step_tables import (
    best_settings,
    by_precision,
    csv_rows,
    quartiles,
    remarks,
    result_tables,
)
from unmask.commands.bench.step_worker import (
    build_contestant,
    count_step_flops,
    draw_batch,
    make_step,
    prepare_contestant,
)
from unmask.config.checks import ConfigError, validate
from unmask.reports.speed_chart import speed_chart
from unmask.training.kernel_choice import cached_choice

CPU = torch.device("cpu")
SPEC: dict[str, Any] = {
    "subject": "step",
    "patch_size": 4,
    "image_size": 16,
    "channels": 3,
    # others round down, to one visible patch; ours rounds to the nearest, to two
    "mask_ratio": 0.9,
    "norm_pix": True,
    "batch": 4,
    "rounds": 3,
    "threads": None,
    "seconds": 1,
    "device": "cpu",
    "precisions": ["32-true"],
    "peers": [],
    "official": None,
    "tricks": False,
    "out": None,
    "minutes": 25.0,
    "smallest": False,
    "model": {"name": "small", "width": 32, "depth": 2, "heads": 2, "mlp_ratio": 2.0},
    "decoder": {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": None},
}
OURS = Entry("unmask", "32-true", "auto")
THEIRS = Entry("transformers", "32-true", "sdpa")
# has the names of the official code, and needs what has gone from timm and NumPy
CHECKOUT = """
    import numpy as np
    import torch
    import torch.nn as nn
    from timm.models.vision_transformer import Block, PatchEmbed

    class MaskedAutoencoderViT(nn.Module):
        def __init__(self, img_size, patch_size, in_chans, embed_dim, depth, num_heads,
                     decoder_embed_dim, decoder_depth, decoder_num_heads, mlp_ratio,
                     norm_layer, norm_pix_loss):
            super().__init__()
            assert np.float is float and norm_pix_loss
            def blocks(count, width, heads):
                return nn.ModuleList(
                    Block(width, heads, mlp_ratio, qkv_bias=True, qk_scale=None,
                          norm_layer=norm_layer) for _ in range(count))
            self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
            tokens = self.patch_embed.num_patches + 1
            self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
            self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim), False)
            self.blocks = blocks(depth, embed_dim, num_heads)
            self.norm = norm_layer(embed_dim)
            self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
            self.decoder_pos_embed = nn.Parameter(
                torch.zeros(1, tokens, decoder_embed_dim), False)
            self.decoder_blocks = blocks(
                decoder_depth, decoder_embed_dim, decoder_num_heads)
            self.decoder_norm = norm_layer(decoder_embed_dim)
            self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * in_chans)
            self.patch = patch_size

        def forward(self, images, mask_ratio):
            count, length = len(images), self.pos_embed.shape[1] - 1
            keep = int(length * (1 - mask_ratio))
            order = torch.rand(count, length, device=images.device).argsort(dim=1)
            rows = torch.arange(count, device=images.device)[:, None]
            x = (self.patch_embed(images) + self.pos_embed[:, 1:])[rows, order[:, :keep]]
            first = (self.cls_token + self.pos_embed[:, :1]).expand(count, -1, -1)
            x = torch.cat([first, x], dim=1)
            for block in self.blocks:
                x = block(x)
            x = self.decoder_embed(self.norm(x))
            hidden = self.mask_token.repeat(count, length - keep, 1)
            x_ = torch.cat([x[:, 1:], hidden], dim=1)[rows, order.argsort(dim=1)]
            x = torch.cat([x[:, :1], x_], dim=1) + self.decoder_pos_embed
            for block in self.decoder_blocks:
                x = block(x)
            x = self.decoder_pred(self.decoder_norm(x))[:, 1:]
            p, side = self.patch, images.shape[2] // self.patch
            target = images.reshape(count, -1, side, p, side, p)
            target = target.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
            target = (target - target.mean(-1, keepdim=True)) / (
                target.var(-1, keepdim=True) + 1e-6) ** 0.5
            wrong = (x - target).square().mean(-1)[rows, order[:, keep:]]
            return wrong.mean(), x, order
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[str]:
    """Yield a folder that stands for a checkout of the official code."""
    import sys

    import numpy as np
    from timm.models import vision_transformer

    (tmp_path / "models_mae.py").write_text(textwrap.dedent(CHECKOUT))
    block, paths = vision_transformer.Block, [*sys.path]
    yield str(tmp_path)
    # what only a process of its own may leave changed
    vision_transformer.Block = block
    sys.path[:] = paths
    sys.modules.pop("models_mae", None)
    vars(np).pop("float", None)


@pytest.fixture(autouse=True)
def settings_of_the_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what a contestant sets in its own process."""
    monkeypatch.setattr(ours_module, "keep_freed_memory", lambda: True)
    with kernels.using(kernels.Kernels()):
        yield
    from timm.layers import set_fused_attn

    set_fused_attn(True)


def first_loss(entry: Entry, spec: dict[str, Any]) -> float:
    facts, _ = prepare_contestant(entry, spec, CPU)
    return facts.loss


def test_contestants_take_turns_and_the_warm_up_is_dropped() -> None:
    turns: list[str] = []
    steps = {
        name: Contestant(lambda turn, name=name: turns.append(name)) for name in "ab"
    }
    seconds = time_in_turn(steps, rounds=3, warm_up=2)
    assert turns == ["a", "b"] * 5
    assert [len(taken) for taken in seconds.values()] == [3, 3]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("peer", ["transformers", "lightly", "official"])
def test_a_peer_computes_our_loss_from_our_weights_images_and_masks(
    peer: Any, attention: str, precision: Any, checkout: str
) -> None:
    if peer != "official":
        pytest.importorskip(peer)
    spec = SPEC | {"official": checkout}
    ours, _ = prepare_contestant(Entry("unmask", precision, "auto"), spec, CPU)
    facts, _ = prepare_contestant(Entry(peer, precision, attention), spec, CPU)
    tolerance = 1e-5 if precision == "32-true" else 1e-2
    assert facts.loss == pytest.approx(ours.loss, rel=tolerance)
    assert facts.parameters == ours.parameters
    # our last block computes only what is read
    assert ours.flops < facts.flops < 1.5 * ours.flops


def test_another_mask_is_another_loss() -> None:
    """Or equal losses of contestants would say nothing of their masks."""
    loss = first_loss(OURS, SPEC)
    assert first_loss(OURS, SPEC | {"mask_ratio": 0.75}) != pytest.approx(
        loss, rel=1e-3
    )


@pytest.mark.parametrize("patches", [16, 196, 256])
def test_who_rounds_down_sees_as_many_patches_as_ours(patches: int) -> None:
    for visible in range(1, patches):
        side = round(patches**0.5)
        spec = {
            "image_size": side,
            "patch_size": 1,
            "mask_ratio": 1 - visible / patches,
        }
        assert int(patches * (1 - truncated_ratio(spec))) == visible


def test_a_parameter_that_we_do_not_know_is_named() -> None:
    pytest.importorskip("transformers")
    built = build_contestant(THEIRS, SPEC)
    built.model.surplus = torch.nn.Parameter(torch.zeros(3))
    mae, _ = build_our_mae(SPEC)
    with pytest.raises(ValueError, match="does not know: surplus"):
        copy_weights(mae.state_dict(), built, 4)


def test_a_step_trains() -> None:
    built = build_ours(SPEC)
    make = make_step(built, "32-true")
    batch = draw_batch(SPEC, 4, CPU)
    losses = [make(*batch) for _ in range(30)]
    assert losses[-1] < losses[0]


def test_flops_are_those_of_the_whole_batch() -> None:
    assert count_step_flops(OURS, SPEC | {"batch": 8}) == 2 * count_step_flops(
        OURS, SPEC
    )


FACTS = Facts("1.0", "AdamW", 1.25, 1000, 6e9, 10 * 2**20, 100 * 2**20, 300 * 2**20)


class FakeWorker:
    """Answers as a process would; its steps take as long as its name says."""

    log: ClassVar[deque[tuple[str, str]]] = deque()
    broken: frozenset[Entry] = frozenset()

    def __init__(self, request: Request) -> None:
        self.entry = request.entry
        self.steps = 0

    def __enter__(self) -> "FakeWorker":
        return self

    def __exit__(self, *_: Any) -> None:
        self.log.append((self.name, "gone"))

    @property
    def name(self) -> str:
        return self.entry.title if self.entry else "products"

    def receive(self) -> Facts:
        if self.entry in self.broken:
            raise step.WorkerError("ImportError: no such name")
        return FACTS

    def ask(self, message: str) -> Any:
        self.log.append((self.name, message))
        if message == END:
            return FACTS.peak
        if message != TURN:
            return 1e11
        self.steps += 1
        # the warm-up takes longer
        slow = 9.0 if self.steps <= step.WARM_UP_ROUNDS else 1.0
        return slow * (2.0 if self.entry == OURS else 3.0)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    class Fakes(FakeWorker):
        log: ClassVar[deque[tuple[str, str]]] = deque()

    monkeypatch.setattr(step, "Worker", Fakes)
    monkeypatch.setattr(
        step,
        "list_entries",
        lambda spec: [OURS, THEIRS, replace(THEIRS, attention="eager")],
    )
    return Fakes


def test_processes_make_steps_in_turn_and_warm_up_first(
    fakes: type[FakeWorker],
) -> None:
    results = compare_steps(SPEC, lambda line: None)
    names = [name for name, message in fakes.log if message == TURN]
    assert names == ["unmask", "transformers sdpa", "transformers eager"] * 5
    ours, theirs, _ = results.timed.values()
    assert ours.seconds == [2.0] * 3
    assert theirs.seconds == [3.0] * 3
    assert theirs.ratios == [1.5] * 3
    # less what a process holds before it has a model
    assert theirs.peak == 90 * 2**20
    assert results.rates == {"32-true": 1e11}
    assert results.notes == []


def test_what_does_not_fit_in_the_memory_is_measured_later_beside_ours(
    fakes: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fakes, "receive", lambda self: replace(FACTS, available=110 * 2**20)
    )
    results = compare_steps(SPEC, lambda line: None)
    names = [name for name, message in fakes.log if message == TURN]
    assert (
        names
        == ["unmask", "transformers sdpa"] * 5
        + [
            "unmask",
            "transformers eager",
        ]
        * 5
    )
    assert [len(timed.seconds) for timed in results.timed.values()] == [6, 3, 3]
    assert any("2 groups" in note for note in results.notes)
    # the first group has ended before the second begins
    assert fakes.log.index(("transformers sdpa", "gone")) < fakes.log.index(
        ("transformers eager", TURN)
    )


def test_others_are_measured_without_a_contestant_that_fails(
    fakes: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "broken", frozenset([THEIRS]))
    results = compare_steps(SPEC, lambda line: None)
    assert [entry.title for entry in results.timed] == ["unmask", "transformers eager"]
    (note,) = results.notes
    assert note == (
        "transformers sdpa, 32-true, is left out: ImportError: no such name"
    )
    monkeypatch.setattr(fakes, "broken", frozenset([OURS]))
    with pytest.raises(ValueError, match=r"unmask itself .*no such name.*batch="):
        compare_steps(SPEC, lambda line: None)


def test_a_contestant_that_dies_in_its_steps_is_left_out(
    fakes: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = fakes.ask

    def ask(self: FakeWorker, message: str) -> Any:
        if self.entry == THEIRS and self.steps == 3:
            raise step.WorkerError("its process ended with exit code -9")
        return answer(self, message)

    monkeypatch.setattr(fakes, "ask", ask)
    results = compare_steps(SPEC, lambda line: None)
    assert [entry.title for entry in results.timed] == ["unmask", "transformers eager"]
    assert "exit code -9" in results.notes[0]


def test_a_contestant_that_dies_at_the_end_is_left_out(
    fakes: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = fakes.ask

    def ask(self: FakeWorker, message: str) -> Any:
        if self.entry == THEIRS and message == END:
            raise step.WorkerError("its process ended with exit code -9")
        return answer(self, message)

    monkeypatch.setattr(fakes, "ask", ask)
    results = compare_steps(SPEC, lambda line: None)
    assert [entry.title for entry in results.timed] == ["unmask", "transformers eager"]
    assert "transformers sdpa, 32-true, is left out" in results.notes[0]


@pytest.mark.parametrize("rounds", [0, 1])
def test_contestants_are_measured_where_large_products_fail(
    rounds: int, fakes: type[FakeWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, asked = fakes.ask, []

    def ask(self: FakeWorker, message: str) -> Any:
        if self.entry is None:
            asked.append(message)
            if len(asked) > rounds:
                raise step.WorkerError("RuntimeError: no memory")
        return answer(self, message)

    monkeypatch.setattr(fakes, "ask", ask)
    results = compare_steps(SPEC, lambda line: None)
    assert len(asked) == rounds + 1
    (note,) = results.notes
    assert note.startswith("Large products failed: RuntimeError: no memory")
    assert results.rates == ({"32-true": 1e11} if rounds else {})
    table, _ = result_tables(results, SPEC)
    row, *_ = csv_rows(results, SPEC)
    shares = list(table.columns[-1].cells)
    if rounds:
        assert "no rate" not in shares
        assert row["product_flops_per_second"] == 1e11
    else:
        assert "large products: no rate" in str(table.title)
        assert shares == ["no rate"] * 3
        assert row["product_flops_per_second"] is row["share"] is None


def test_a_process_that_has_ended_is_asked_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step, "WORKER", "unmask.no_such_module")
    with Worker(Request(SPEC)) as worker:
        worker.process.wait()
        with pytest.raises(step.WorkerError, match=r"ended with exit code 1$"):
            worker.ask(TURN)


def test_a_process_that_ends_says_with_which_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step, "WORKER", "unmask.no_such_module")
    gone = pytest.raises(step.WorkerError, match=r"ended with exit code 1$")
    with Worker(Request(SPEC)) as worker, gone:
        worker.receive()


def timed(entry: Entry, seconds: list[float], **facts: Any) -> Timed:
    ratios = [taken / 2.0 for taken in seconds]
    return Timed(entry, replace(FACTS, **facts), seconds, ratios, 90 * 2**20)


def planted_results(**facts: Any) -> StepResults:
    eager = replace(THEIRS, attention="eager")
    trick = Entry("unmask", "32-true", "auto", NO_TRICKS, "no tricks")
    all_timed = (
        timed(OURS, [2.0, 2.0, 2.0, 2.0]),
        timed(THEIRS, [3.0, 3.2, 3.4, 3.6], **facts),
        timed(eager, [5.0, 5.0, 5.0, 5.0]),
        timed(trick, [4.0, 4.0, 4.0, 4.0], optimizer="another"),
    )
    return StepResults({t.entry: t for t in all_timed}, {"32-true": 6e9}, [])


def test_the_best_setting_of_a_peer_stands_beside_ours() -> None:
    results = planted_results()
    (group,) = by_precision(results).values()
    assert best_settings(group)["transformers"].entry == THEIRS
    table, best = result_tables(results, SPEC)
    assert [list(column.cells) for column in best.columns] == [
        ["float32"],
        ["transformers sdpa"],
        ["1.65"],
        ["1.58-1.72"],
    ]
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["ms"] == ["2,000", "3,300", "5,000", "4,000"]
    assert columns["images/s"] == ["2.0", "1.2", "0.8", "1.0"]
    assert columns["MiB"] == ["90"] * 4
    # 6 GFLOP in 2 s, where products reach 6 GFLOP/s
    assert columns["rate"] == ["50%", "30%", "20%", "25%"]


def test_quartiles_of_one_round_are_its_own() -> None:
    assert quartiles([1.5]) == (1.5, 1.5)
    assert quartiles([1.0, 2.0, 3.0]) == (1.5, 2.5)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, None),
        ({"loss": 1.25001}, None),
        (
            {"loss": 1.3},
            "transformers sdpa, float32, does not compute the same: its first loss is"
            " 1.30000, that of unmask 1.25000",
        ),
        ({"loss": float("nan")}, "its first loss is nan"),
        ({"parameters": 999}, "trains 999 parameters, unmask 1,000"),
    ],
)
def test_it_is_said_where_a_peer_computes_something_else(
    facts: dict[str, Any], message: str | None
) -> None:
    lines = "\n".join(remarks(planted_results(**facts), SPEC))
    if message:
        assert message in lines
    else:
        assert "does not compute" not in lines
    assert "unmask AdamW (torch 1.0)" in lines
    assert "transformers AdamW (transformers 1.0)" in lines


def test_peers_that_are_not_there_are_named_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        entries, "find_spec", lambda name: None if name == "lightly" else True
    )
    spec = SPEC | {
        "peers": ["transformers", "lightly"],
        "precisions": ["32-true", "bf16-mixed"],
    }
    assert [(entry.title, entry.precision) for entry in list_entries(spec)] == [
        (title, precision)
        for precision in ("32-true", "bf16-mixed")
        for title in ("unmask", "transformers sdpa", "transformers eager")
    ]
    lightly, official = absence_notes(spec)
    assert "pip install 'lightly>=" in lightly
    assert "official=PATH" in official
    assert "official eager" in [
        entry.title for entry in list_entries(spec | {"official": "x"})
    ]


def test_the_chart_has_a_bar_for_each_contestant() -> None:
    rows = csv_rows(planted_results(), SPEC)
    rows += [row | {"precision": "bf16-mixed"} for row in rows[:1]]
    svg = speed_chart(rows, "a title")
    assert svg.startswith("<svg")
    # text is drawn as paths, whose comments hold it
    assert svg.count("unmask  2") == 2
    assert svg.count("transformers sdpa  1.21") == 1
    assert rows[0]["ratio"] == 1
    assert rows[1]["images_per_second"] == pytest.approx(4 / 3.3)
    assert rows[1]["share"] == pytest.approx(6e9 / 3.3 / 6e9)


@pytest.mark.process
def test_the_command_prints_tables_and_writes_them(
    tmp_path: Path, checkout: str
) -> None:
    """A peer that cannot be imported is named, and the others are measured."""
    (Path(checkout) / "models_mae.py").write_text("raise RuntimeError('too old')")
    out = tmp_path / "speed.csv"
    small = (
        "step",
        "batch=1",
        "rounds=1",
        "image_size=32",
        "patch_size=4",
        "model.depth=1",
        "decoder.depth=1",
        "model=mae_vit_ti",
        "threads=1",
        "peers=[]",
        "precisions=[32-true]",
        f"official={checkout}",
        f"out={out}",
    )
    done = call(*small, script="bench.py", tiny=False)
    assert done.returncode == 0, done.stderr
    assert "official eager, 32-true, is left out: RuntimeError: too old" in " ".join(
        done.stdout.split()
    )
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert row["contestant"] == "unmask"
    assert float(row["seconds"]) > 0
    assert float(row["peak_bytes"]) > 0
    assert 0 < float(row["share"]) < 1.5
    assert out.with_suffix(".svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_size": 30},
            "image_size = 30: .*patch_size=4.*32",
        ),
        ({"rounds": 0}, "rounds = 0"),
        ({"batch": -1}, "batch = -1"),
        ({"device": "x"}, "device = 'x'"),
        ({"mask_ratio": 1.0}, "mask_ratio = 1.0"),
        ({"mask_ratio": 0.999}, "mask_ratio = 0.999: keeps 0 of 64 patches"),
        ({"device": "x", "rounds": 0}, "rounds = 0.*\ndevice = 'x'"),
        ({"precisions": []}, "precisions"),
        ({"peers": ["jax"]}, "peers"),
        ({"official": "/no/such"}, r"official = /no/such: no folder with models_mae"),
        ({"out": "speed.txt"}, r"out = speed.txt: .*\.csv"),
        ({"out": "/no/such/speed.csv"}, "out = /no/such/speed.csv: .*/no/such"),
    ],
)
def test_all_arguments_out_of_range_are_named_together(
    change: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(Bench, complete_spec() | change)


def complete_spec() -> dict[str, Any]:
    model = SPEC["model"] | {"patch_size_at_224": 16}
    more = {"source": "folder", "image_size": 32, "mask_ratio": 0.75, "model": model}
    return SPEC | more


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 1}, "channels = 1: the official code takes 3"),
        (
            {"decoder": {**SPEC["decoder"], "mlp_ratio": 4.0}},
            r"decoder.mlp_ratio = 4.0: .*here 2.0",
        ),
    ],
)
def test_sizes_that_the_official_code_does_not_have_are_refused(
    change: dict, message: str, checkout: str
) -> None:
    spec = complete_spec() | {"official": checkout}
    assert validate(Bench, spec).official == checkout
    with pytest.raises(ConfigError, match=message):
        validate(Bench, spec | change)


def test_the_cost_of_callbacks_and_checkpoints_is_measured_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is so slow that steps run beside it; test_checkpoint_writer tests that none waits for it."""
    from unmask.commands.bench.callbacks import measure_overhead
    from unmask.storage import checkpoints

    original = checkpoints.save

    def slow(*args: Any, **kwargs: Any) -> Path:
        time.sleep(0.05)
        return original(*args, **kwargs)

    monkeypatch.setattr(checkpoints, "save", slow)
    overhead = measure_overhead(SPEC)
    assert set(overhead.guards) == {
        "watchdog",
        "nonfiniteguard",
        "metricslogger",
        "checkpointing",
        "stageprogress",
    }
    assert all(0 < seconds < overhead.step for seconds in overhead.guards.values())
    copy, slower, both = overhead.checkpoint.values()
    assert copy > 0
    assert both == pytest.approx(copy + slower)


def test_each_trick_is_measured_alone() -> None:
    spec = SPEC | {"precisions": ["32-true", "bf16-mixed"], "tricks": True}
    tricks = [entry for entry in list_entries(spec) if entry.trick]
    assert len(tricks) == len(TRICKS) + len(TRICKS) - 1
    changes = []
    for entry in tricks:
        changed = {
            field.name
            for field in dataclasses.fields(Settings)
            if getattr(entry.settings, field.name) != getattr(NO_TRICKS, field.name)
        }
        changes.append(changed)
        assert not entry.is_reference
    assert all(
        len(changed) <= 1 or changed == {"blocks", "linear"} for changed in changes
    )
    # all of them but the compiler are what a training has
    every = set().union(*changes) - {"compiled"}
    assert every == {
        field.name
        for field in dataclasses.fields(Settings)
        if getattr(Settings(), field.name) != getattr(NO_TRICKS, field.name)
    }


@pytest.mark.parametrize("name", [*TRICKS])
def test_tricks_change_the_loss_by_rounding_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch.compile takes most of a minute
    monkeypatch.setattr(step_worker, "compile_blocks", lambda model: None)
    entry = Entry("unmask", "32-true", "auto", TRICKS[name], name)
    facts, _ = prepare_contestant(entry, SPEC, CPU)
    assert kernels.in_use.blocks == TRICKS[name].blocks
    assert facts.loss == pytest.approx(first_loss(OURS, SPEC), rel=1e-5)
    assert facts.optimizer == TRICKS[name].optimizer


def test_freed_memory_is_kept_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(
        ours_module, "keep_freed_memory", lambda: calls.append(True) or True
    )
    ours_module.use_settings(NO_TRICKS, SPEC, "32-true")
    assert not calls
    ours_module.use_settings(Settings(), SPEC, "32-true")
    assert calls
    # as a training here has them
    chosen = cached_choice(ours_module.block_shapes(SPEC), False)
    assert kernels.in_use == chosen.kernels
