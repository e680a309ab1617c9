"""The page of what is known: all claims of all tables at a scale, by their verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask.reports.paper.claim_figures import claims_svg, drawn_claims
from unmask.reports.paper.claims import JudgedClaim
from unmask.reports.paper.comparison import Comparison, Finding
from unmask.reports.paper.page import TONES, TOTAL_NAMES
from unmask.reports.paper.variance import Variances
from unmask.reports.paper.variance_table import LEGEND, variance_table
from unmask.reports.render import render

PAGE = "known.html"


@dataclass(frozen=True)
class Known:
    """The claims with one verdict at one scale, each with its table, and a figure."""

    verdict: str
    tone: str
    name: str
    claims: list[tuple[Comparison, JudgedClaim]]
    svg: str | None


def known_at(comparisons: list[Comparison], scale: str) -> list[Known]:
    """Return the claims at a scale by verdict, without verdicts that no claim has."""
    of_scale = [each for each in comparisons if each.scale == scale]
    groups = []
    for verdict, tone in TONES.items():
        claims = [
            (comparison, judged)
            for comparison in of_scale
            for judged in comparison.claims
            if judged.verdict == verdict
        ]
        if claims:
            drawn = [
                claim
                for comparison in of_scale
                for claim in drawn_claims(comparison, f"{comparison.paper.label}: ")
                if claim.judged.verdict == verdict
            ]
            svg = claims_svg(f"{scale}-{tone}", drawn)
            groups.append(Known(verdict, tone, TOTAL_NAMES[verdict], claims, svg))
    return groups


def render_known_page(
    findings: list[Finding], index: str, variances: Sequence[Variances] = ()
) -> str:
    """Return the page's HTML. index: the address of the page with all tables."""
    comparisons = [finding.comparison for finding in findings]
    scales = dict.fromkeys(comparison.scale for comparison in comparisons)
    return render(
        Path(__file__).with_name("known.html.j2"),
        scales={scale: known_at(comparisons, scale) for scale in scales},
        index=index,
        variances={
            scale: [variance_table(each) for each in variances if each.scale == scale]
            for scale in scales
        },
        legend=LEGEND,
    )
