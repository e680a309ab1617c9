"""Figures of claims show what their verdicts are made of; a page gathers all claims."""

import re
from dataclasses import replace

import pytest

from planted_results import planted_findings
from unmask.reports.paper.claim_figures import (
    MAX_LOOKS,
    DrawnClaim,
    claims_figure,
    drawn_claims,
    shown_looks,
)
from unmask.reports.paper.comparison import Finding
from unmask.reports.paper.history import History, Look, look_back
from unmask.reports.paper.inequalities import Inequality
from unmask.reports.paper.known import known_at, render_known_page
from unmask.reports.paper.page import TONES
from unmask.reports.paper.samples import Sample
from unmask.reports.paper.sequential import FOUR_LOOKS

PAIR = Inequality("a", "b", 0.5)


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    return planted_findings()


def claims_of(findings: list[Finding]) -> list[DrawnClaim]:
    return [claim for f in findings for claim in drawn_claims(f.comparison)]


def test_a_history_has_each_look_that_both_rows_have_reached() -> None:
    values = tuple(float(i % 5) for i in range(12))
    samples = {"a": Sample(values, 0), "b": Sample(values[:7], 0)}
    history = look_back(PAIR, samples, FOUR_LOOKS, {"a": 3.0, "b": 1.0}, 0.6)
    assert [look.seeds for look in history.looks] == [3, 6]
    assert history.paper == 2.0
    for look in history.looks:
        difference = FOUR_LOOKS.compare(samples["a"], samples["b"], look.seeds)
        assert difference
        reach = FOUR_LOOKS.critical(difference) * difference.error
        assert look.mean == difference.mean
        assert look.high - look.mean == pytest.approx(reach)
        assert look.mean - look.low == pytest.approx(reach)
    only_ours = look_back(PAIR, samples, FOUR_LOOKS, {"a": 3.0}, None)
    assert only_ours.paper is None


def test_every_verdict_is_of_the_inequality_that_its_reason_names(
    findings: list[Finding],
) -> None:
    judged = [claim.judged for claim in claims_of(findings)]
    assert {each.verdict for each in judged} >= {"holds", "does not hold"}
    for each in judged:
        assert each.history
        pair = each.history.pair
        assert f"“{pair.high}” minus “{pair.low}”" in each.reason
        deciding = [look for look in each.history.looks if look.seeds == each.seeds]
        if each.verdict == "holds":
            assert deciding[0].low > pair.margin
        if each.verdict == "does not hold":
            assert deciding[0].high < pair.margin


def test_a_line_lies_where_its_look_does(findings: list[Finding]) -> None:
    claims = [c for c in claims_of(findings) if c.judged.verdict == "holds"][:1]
    figure = claims_figure(claims)
    assert figure
    (axes,) = figure.axes
    (history,) = (claim.history for claim in claims)
    drawn = [tuple(line.get_xdata()) for line in axes.lines]
    for look in history.looks:
        assert (look.low, look.high) in drawn
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{history.pair.high} \N{MINUS SIGN}\N{NO-BREAK SPACE}{history.pair.low}"
    ]
    low, high = axes.get_xlim()
    assert low < history.looks[-1].low < history.looks[-1].high < high


def test_stages_have_a_panel_each(findings: list[Finding]) -> None:
    claims = claims_of(findings)
    figure = claims_figure(claims)
    assert figure
    assert len(figure.axes) == len({claim.panel for claim in claims}) > 1
    assert claims_figure([]) is None


def test_of_many_looks_the_last_is_drawn() -> None:
    looks = tuple(Look(n, 0.0, -1.0, 1.0) for n in range(2, 25))
    shown = shown_looks(History(PAIR, looks, None, None))
    assert len(shown) <= MAX_LOOKS
    assert shown[-1].seeds == 24


def test_the_page_has_every_claim_once_at_its_scale(findings: list[Finding]) -> None:
    page = render_known_page(findings, "index.html")
    claims = [judged for f in findings for judged in f.comparison.claims]
    assert page.count("<li class=") == len(claims)
    scale = findings[0].comparison.scale
    groups = known_at([f.comparison for f in findings], scale)
    assert [g.verdict for g in groups] == [
        verdict
        for verdict in TONES
        if any(judged.verdict == verdict for judged in claims)
    ]
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(identifiers)) == len(identifiers)
    assert known_at([f.comparison for f in findings], "another") == []


def test_scales_stand_apart(findings: list[Finding]) -> None:
    other = [
        replace(finding, comparison=replace(finding.comparison, scale="other"))
        for finding in findings
    ]
    page = render_known_page([*findings, *other], "index.html")
    assert page.count("<section>") == 2
    assert "<h2>Scale other</h2>" in page
