"""The fastest kernels are found by measuring, once, and a stage keeps those it has."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from hydra_plugins.one_precision import asks_for_auto, settle_typed_precision
from small_runs import ROOT, call, raw_config, run
from unmask import kernels
from unmask.commands.composition import Composer
from unmask.config.checks import ConfigError, check
from unmask.kernels import Kernels
from unmask.stages import precision
from unmask.stages.plan import make_plan
from unmask.training import kernel_choice
from unmask.training.kernel_choice import (
    BlockShape,
    Choice,
    cached_choice,
    describe,
    measure,
    read_kernels,
    stage_shapes,
)

ENCODER = BlockShape(4, 5, 16, 2, 4.0, depth=3)
DECODER = BlockShape(4, 17, 8, 2, 4.0, depth=1)
SHAPES = [ENCODER, DECODER]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unmask" / "kernels"


def plant_seconds(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[BlockShape, dict[tuple[str, str], float]],
) -> None:
    """Let the blocks take these times, whatever they take."""
    monkeypatch.setattr(
        kernel_choice, "_block_seconds", lambda shape, *_: seconds[shape]
    )
    monkeypatch.setattr(kernels, "has_onednn", lambda: True)


def test_the_kernels_that_take_the_least_for_all_blocks_are_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = {
        ("torch", "products"): 2.0,
        ("torch", "fused"): 1.0,
        ("onednn", "products"): 2.0,
        ("onednn", "fused"): 1.2,
    }
    decoder = {
        ("torch", "products"): 3.0,
        ("torch", "fused"): 4.0,
        ("onednn", "products"): 2.5,
        ("onednn", "fused"): 4.0,
    }
    plant_seconds(monkeypatch, {ENCODER: encoder, DECODER: decoder})
    attention = {5: "fused", 17: "products"}
    # three blocks and one: 3 * 1 + 3 against 3 * 1.2 + 2.5
    assert measure(SHAPES, False) == Choice(Kernels("merged", "torch", attention), 6.0)
    shallow = [ENCODER._replace(depth=1), DECODER]
    plant_seconds(monkeypatch, {shallow[0]: encoder, DECODER: decoder})
    assert measure(shallow, False).kernels.linear == "onednn"


def test_a_small_gain_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {
        ("torch", "products"): 1.0,
        ("torch", "fused"): 0.98,
        ("onednn", "products"): 0.99,
        ("onednn", "fused"): 0.98,
    }
    plant_seconds(monkeypatch, {ENCODER: seconds})
    expected = Kernels("merged", "torch", {5: "products"})
    assert measure([ENCODER], False).kernels == expected


@pytest.mark.parametrize(
    ("given", "fastest", "chosen"), [("", 2, 2), ("", 8, None), ("8", 2, None)]
)
def test_with_many_cores_fewer_threads_are_tried(
    given: str, fastest: int, chosen: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    threads = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)

    def planted(*_: object) -> Choice:
        return Choice(Kernels(), 1.0 + abs(threads[-1] - fastest))

    monkeypatch.setattr(kernel_choice, "_measure_kernels", planted)
    assert measure([ENCODER], False).kernels.threads == chosen
    # what follows has all of them
    assert threads[-1] == 8


def test_a_stage_computes_with_the_threads_that_were_chosen() -> None:
    assert torch.get_num_threads() == 1
    with kernels.using(Kernels(threads=2)):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


def test_measuring_times_real_blocks() -> None:
    choice = measure(SHAPES, False)
    assert set(choice.kernels.attention) == {5, 17}
    assert 0 < choice.seconds < 60
    assert kernels.in_use == Kernels()
    assert measure(SHAPES, True).kernels.linear == "torch"


@pytest.mark.skipif(not kernels.has_onednn(), reason="this torch has no oneDNN")
def test_the_backward_pass_is_measured_with_the_kernels_that_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libraries = []
    by_library = kernels.linear

    def noted(*operands: torch.Tensor) -> torch.Tensor:
        libraries.append(kernels.in_use.linear)
        return by_library(*operands)

    monkeypatch.setattr(kernels, "linear", noted)
    measure([ENCODER], False)
    # as many products by one as by the other, forward and backward
    assert libraries.count("torch") == libraries.count("onednn") > 0


def test_a_machine_measures_a_shape_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached_choice(SHAPES, False)
    monkeypatch.setattr(kernel_choice, "measure", None)
    assert cached_choice(SHAPES, False) == first
    # in another precision, or of another size, others may be faster
    for shapes, bfloat16 in ((SHAPES, True), ([ENCODER], False)):
        with pytest.raises(TypeError):
            cached_choice(shapes, bfloat16)


def test_a_damaged_note_is_made_again(cache: Path) -> None:
    first = cached_choice(SHAPES, False)
    (path,) = cache.glob("*.json")
    path.write_text(path.read_text()[:20])
    assert cached_choice(SHAPES, False).kernels.attention.keys() == {5, 17}
    assert json.loads(path.read_text()).keys() == asdict(first).keys()


@pytest.mark.parametrize("home", ["a file", "none"])
def test_runs_without_a_cache_choose_alike(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near a tie each run would choose for itself, and its last digits would differ."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home == "a file":
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        monkeypatch.setattr(kernel_choice, "user_cache", lambda: None)
    monkeypatch.setattr(kernel_choice, "measure", None)
    assert cached_choice([ENCODER], False) is None
    run(f"runs_dir={tmp_path / 'runs'}", "stages=[pretrain]", "pretrain.epochs=1")
    (path,) = tmp_path.glob("runs/pretrain/*/kernels.json")
    assert read_kernels(path.parent) == Kernels()


def test_stages_that_share_features_compute_alike(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that goes on alone sees the features that kNN computed for both."""
    chosen = Kernels("merged", "torch", {5: "fused"})
    monkeypatch.setattr(kernel_choice, "measure", lambda *_: Choice(chosen, 1.0))
    stages = "stages=[pretrain,knn,linear_probe,finetune]"
    run(f"runs_dir={tmp_path}", stages, "pretrain.epochs=1", "controls=[]", "labels=20")
    noted = {
        path.parts[-3]: read_kernels(path.parent)
        for path in tmp_path.glob("*/*/kernels.json")
    }
    # the others compute with the usual ones
    assert noted == {"pretrain": chosen, "finetune": chosen}


def test_processes_that_start_at_once_take_one_choice(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one waits for what the first one measures."""
    measurements: list[Choice] = []

    def slowly(shapes: list[BlockShape], bfloat16: bool) -> Choice:
        time.sleep(0.1)
        library = "onednn" if measurements else "torch"
        measurements.append(Choice(Kernels(linear=library), 1.0))
        return measurements[-1]

    monkeypatch.setattr(kernel_choice, "measure", slowly)
    with ThreadPoolExecutor(4) as threads:
        chosen = list(threads.map(lambda _: cached_choice(SHAPES, False), range(4)))
    assert chosen == [measurements[0]] * 4


def test_a_stage_goes_on_with_the_kernels_that_it_noted(tmp_path: Path) -> None:
    assert read_kernels(tmp_path) is None
    chosen = Kernels("timm", "torch", {5: "fused"}, 2)
    (tmp_path / "kernels.json").write_text(json.dumps(asdict(chosen)))
    assert read_kernels(tmp_path) == chosen
    (tmp_path / "kernels.json").write_text('{"blocks": "merged"}')
    assert read_kernels(tmp_path) is None


def test_a_stages_blocks_are_those_of_its_model() -> None:
    config = check(raw_config("data=cifar10", "model=mae_vit_ti", tiny=False))
    encoder, decoder = stage_shapes(config, "pretrain", 8, config.num_visible or 0)
    assert encoder == BlockShape(8, 1 + 16, 192, 3, 4.0, 12)
    assert (decoder.tokens, decoder.width) == (1 + 64, config.decoder.width)
    (whole,) = stage_shapes(config, "finetune", 8, 16)
    assert whole.tokens == 1 + 64
    with_tokens = check(
        raw_config("data=cifar10", "encoder.mask_tokens=true", tiny=False)
    )
    assert stage_shapes(with_tokens, "pretrain", 8, 16)[0].tokens == 1 + 64


def test_what_was_found_is_said_in_one_line() -> None:
    said = describe(Kernels("merged", "onednn", {17: "products", 65: "fused"}))
    assert said == (
        "fastest here: oneDNN's matrix products; attention by plain products for 17"
        " tokens, the fused kernel for 65 tokens"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has the switch")
def test_freed_memory_is_kept() -> None:
    """Taken again, it needs no new pages from the system."""
    script = """
import ctypes, resource
from unmask.distributed.machine import keep_freed_memory
libc = ctypes.CDLL(None)
if not hasattr(libc, "mallopt"):
    raise SystemExit("no glibc")
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    piece = libc.malloc(128 << 20)
    ctypes.memset(piece, 1, 128 << 20)
    libc.free(piece)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = [faults(), faults()]
assert keep_freed_memory()
kept = [faults(), faults()]
print(usual[1], kept[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT / "src",
        check=False,
    )
    if "no glibc" in done.stderr:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    usual, kept = map(int, done.stdout.split())
    assert kept < usual / 10


def test_automatic_precision_is_settled_before_anything_is_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def answer(config: object) -> str:
        asked.append(config)
        return "bf16-mixed"

    monkeypatch.setattr(precision, "_measured", answer)
    automatic = check(raw_config("trainer.precision=auto"))
    plans = [make_plan(automatic) for _ in range(2)]
    assert len(asked) == 1
    fixed = make_plan(check(raw_config("trainer.precision=bf16-mixed")))
    for plan in plans:
        assert plan.config.precision == "bf16-mixed"
        assert plan.stages[0].fingerprint == fixed.stages[0].fingerprint


def test_a_sweep_settles_the_precision_once_for_all_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["bf16-mixed", "32-true"])
    monkeypatch.setattr(precision, "_measured", lambda _: next(answers))
    typed = ["decoder.depth=1,2", "trainer.precision=auto"]
    assert settle_typed_precision(typed, ["decoder.depth=1", typed[1]]) == [
        "decoder.depth=1,2",
        "trainer.precision=bf16-mixed",
    ]


def test_auto_is_one_precision_of_a_sweep_however_it_is_typed() -> None:
    assert asks_for_auto(["++trainer.precision=auto"])
    assert not asks_for_auto(["trainer.precision=32-true,bf16-mixed", "seed=0,1"])
    with pytest.raises(ConfigError, match="leave it out of the list"):
        asks_for_auto(["trainer.precision=auto,32-true"])


def test_auto_is_refused_where_machines_may_differ() -> None:
    several = ("trainer.precision=auto", "trainer.nodes=2", "trainer.devices=1")
    with pytest.raises(ConfigError, match="machines may differ"):
        check(raw_config(*several))


def test_a_price_wants_a_precision() -> None:
    done = call("trainer.precision=auto", script="plan.py")
    assert done.returncode == 2
    assert "type 32-true or bf16-mixed for a price" in done.stderr


@pytest.mark.parametrize(("threads", "choices"), [(8, 2), (1, 1)])
def test_only_where_fewer_threads_may_be_chosen_it_counts_whether_they_are_given(
    threads: int, choices: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near a tie two choices of the same thing would give other last digits."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(kernel_choice, "measure", lambda *_: Choice(Kernels(), 1.0))
    for given in (False, True):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if given:
            monkeypatch.setenv("OMP_NUM_THREADS", "1")
        cached_choice([ENCODER], False)
    assert len(list(cache.glob("*.json"))) == choices


@pytest.mark.parametrize("kernel", ["default", "measured"])
def test_a_stage_goes_on_as_it_began_whatever_is_typed_later(
    kernel: str, tmp_path: Path
) -> None:
    other = {"default": "measured", "measured": "default"}[kernel]
    typed = ("stages=[pretrain]", f"runs_dir={tmp_path}")
    run(*typed, "stop_after=1", f"trainer.kernels={kernel}")
    (path,) = tmp_path.glob("pretrain/*/kernels.json")
    before = path.read_text()
    path.with_name("result.json").unlink()
    run(*typed, "stop_after=1", f"trainer.kernels={other}")
    assert path.read_text() == before


def test_where_nothing_can_be_measured_the_error_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "MEASURING", "unmask.nowhere")
    with pytest.raises(ConfigError, match="set 32-true or bf16-mixed"):
        make_plan(check(raw_config("trainer.precision=auto")))


def test_the_process_that_measures_answers_with_a_precision(cache: Path) -> None:
    config = check(Composer()(["trainer.precision=auto", "model.depth=1"]))
    settled = precision.settle_precision(config).precision
    (note,) = cache.glob("precision-*.txt")
    assert note.read_text() == settled
    assert len(list(cache.glob("*.json"))) == 2
    assert torch.get_num_threads() == 1


def test_compiling_without_a_compiler_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no no-such-compiler here"):
        run("trainer.compile=true", f"runs_dir={tmp_path}")
