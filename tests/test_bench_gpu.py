"""What waits for a GPU runs at its smallest size on a CPU; a part that fails stops no other."""

import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from small_runs import ROOT, call
from unmask.commands.bench.arguments import unused_keys
from unmask.commands.bench.gpu import part_worker, parts, small_images, training
from unmask.commands.bench.gpu.context import (
    FULL,
    PARTS,
    SMALLEST,
    PartName,
    PartRequest,
    Report,
)
from unmask.commands.bench.gpu.digits import digit_batches
from unmask.commands.bench.gpu.page import console_lines, page_text
from unmask.commands.bench.gpu.parts import PartResult, measure_parts
from unmask.commands.bench.gpu.training import parity_report
from unmask.commands.bench.step import WorkerError
from unmask.commands.bench.step_messages import Failure


def request(name: PartName, seconds: float = 300.0) -> PartRequest:
    return PartRequest(name, SMALLEST, "cpu", time.time() + seconds)


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave blocks as they are: to compile them takes most of a minute."""
    monkeypatch.setattr(small_images, "compile_blocks", lambda model: None)


def numbers(report: Report, column: int) -> list[float]:
    return [float(row[column].replace(",", "")) for row in report.rows]


def test_every_part_has_a_measurement() -> None:
    assert part_worker.MEASURES.keys() == PARTS.keys()


@pytest.mark.parametrize(
    ("name", "rows"), [("guards", 9), ("parity", 2), ("small", 6), ("feeding", 4)]
)
def test_each_part_reports_what_it_measured(name: PartName, rows: int) -> None:
    (report,) = part_worker.MEASURES[name](request(name))
    assert len(report.rows) == rows
    assert all(len(row) == len(report.header) for row in report.rows)
    # what takes less than half a microsecond is printed as 0.000 ms
    assert min(numbers(report, 1)) >= 0
    assert max(numbers(report, 1)) > 0


def test_a_model_sharded_over_one_device_computes_the_same() -> None:
    (report,) = part_worker.MEASURES["fsdp"](request("fsdp"))
    whole, sharded = numbers(report, 3)
    assert sharded == pytest.approx(whole, rel=1e-2)
    assert not dist.is_initialized()


def test_models_are_measured_eager_and_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And one that is too large for the memory is a row that says so."""
    asked: list[tuple[int, bool]] = []

    class FakeWorker:
        rate = 8e12

        def __init__(self, request: Any) -> None:
            self.entry = request.entry
            if self.entry:
                compiled = self.entry.settings.compiled
                asked.append((request.spec["batch"], compiled))

        def __enter__(self) -> "FakeWorker":
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def receive(self) -> Any:
            if self.entry.settings.compiled:
                raise WorkerError("OutOfMemoryError: CUDA out of memory")
            return type("Facts", (), {"flops": 2e12})

        def ask(self, message: str) -> float:
            return {"turn": 0.5, "end": 3 * 2**30}.get(message, self.rate)

    monkeypatch.setattr(training, "Worker", FakeWorker)
    (report,) = part_worker.MEASURES["models"](request("models"))
    assert asked == [(2, False), (2, True)]
    eager, compiled = report.rows
    assert eager == ("2", "eager", "500", "4.0", "4", "50%", "3.0")
    assert "out of memory" in compiled[2]
    monkeypatch.setattr(FakeWorker, "rate", 0.0)
    (report,) = part_worker.MEASURES["models"](request("models"))
    assert report.rows[0][5] == "no rate"
    (report,) = part_worker.MEASURES["models"](request("models", seconds=1.0))
    assert not report.rows
    assert "no time was left" in report.notes[0]


def test_digits_are_the_same_for_both_precisions() -> None:
    spec = request("parity").spec(*SMALLEST.models["ti"], "batch=4")
    first, again = (list(digit_batches(spec, 2, torch.device("cpu"))) for _ in range(2))
    assert all((a[0] == b[0]).all() for a, b in zip(first, again, strict=True))
    assert not (first[0][0] == first[1][0]).all()
    assert first[0][0].shape == (4, 3, 32, 32)


def test_loss_curves_are_compared_smoothed_and_step_by_step() -> None:
    float32 = [2.0] * 30
    bfloat16 = [2.0] * 10 + [2.2] + [2.0] * 19
    report = parity_report(float32, bfloat16)
    assert [row[0] for row in report.rows] == ["1", "3", "10", "30"]
    assert report.rows[0][3] == "+0.00%"
    # one step of 20 is 10 % higher
    assert report.notes == ("Means of 20 steps differ by 0.50% at most.",)


class Scripted:
    """A part's process that reports once, then does as its name says."""

    def __init__(self, request: PartRequest, module: str) -> None:
        self.name = request.name
        self.connection = self
        self.reports = iter([Report(("a",), [("1",)]), None])

    def __enter__(self) -> "Scripted":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def poll(self, seconds: float) -> bool:
        return not (self.name == "fsdp" and self.reports is None)

    def receive(self) -> Any:
        report = next(self.reports)
        if report is None and self.name == "parity":
            raise WorkerError("RuntimeError: CUDA error")
        if self.name == "fsdp":
            self.reports = None  # type: ignore[assignment]
        return report


def test_a_part_that_fails_or_is_too_slow_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "Worker", Scripted)
    names: list[PartName] = ["guards", "parity", "fsdp", "small"]
    results = measure_parts(names, FULL, "cuda", 100.0, lambda line: None)
    assert [len(result.reports) for result in results] == [1, 1, 1, 1]
    assert [result.fault for result in results] == [
        "",
        "It failed: RuntimeError: CUDA error",
        parts.TIME_IS_OVER,
        "",
    ]
    late = measure_parts(names, FULL, "cuda", -1.0, lambda line: None)
    assert {result.fault for result in late} == {parts.TIME_IS_OVER}


def test_an_error_of_a_part_is_sent_as_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(request: PartRequest) -> Iterator[Report]:
        yield Report(("a",), [("1",)])
        raise RuntimeError("no kernel image\nis available")

    sent: list[Any] = []

    class Connection:
        def recv(self) -> PartRequest:
            return request("small")

        def send(self, message: Any) -> None:
            sent.append(message)

    monkeypatch.setitem(part_worker.MEASURES, "small", fail)
    part_worker.serve_part(Connection())  # type: ignore[arg-type]
    assert sent[1] == Failure("RuntimeError: no kernel image")


def test_the_page_has_every_table_and_says_what_is_missing() -> None:
    reports = [Report(("a", "b"), [("1", "x|y")], ("a note",))]
    results = [PartResult("First", reports), PartResult("Second", [], "It failed: x")]
    text = page_text(results, "a GPU, torch 2", "as typed", date(2026, 1, 2))
    assert "## First\n\n| a | b |\n|---|---|\n| 1 | x\\|y |\n\na note\n" in text
    assert "Written by `as typed` on 2026-01-02: a GPU, torch 2" in text
    assert text.endswith("## Second\n\nIt failed: x\n")
    assert list(console_lines(results[1])) == ["Second: It failed: x"]


@pytest.mark.process
def test_parts_are_processes_of_their_own() -> None:
    (result,) = measure_parts(["fsdp"], SMALLEST, "cpu", 250.0, lambda line: None)
    assert result.fault == ""
    assert len(result.reports) == 1


@pytest.mark.process
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_one_line_says_so() -> None:
    done = call("gpu", script="bench.py", tiny=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "no GPU here; smallest=true" in line


@pytest.mark.process
def test_the_smallest_sizes_make_no_page(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    typed = ("gpu", "smallest=true", f"out={out}")
    done = call(*typed, script="bench.py", tiny=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"out = {out}: smallest=true only shows that all of gpu runs" in line
    assert not out.exists()


def test_it_measures_sizes_of_its_own() -> None:
    assert unused_keys("gpu", ["batch"]).startswith("batch: gpu does not use it")
    assert unused_keys("step", ["minutes"])
    assert not unused_keys("gpu", ["minutes", "smallest", "out"])
    assert "out=docs/speed-gpu.md" in (ROOT / "Makefile").read_text()


def test_full_sizes_are_those_of_the_paper() -> None:
    specs = {
        name: PartRequest("models", FULL, "cpu", 0.0).spec(*typed)
        for name, typed in FULL.models.items()
    }
    assert [spec["model"]["width"] for spec in specs.values()] == [768, 1024, 1280]
    assert specs["h"]["patch_size"] == 14
