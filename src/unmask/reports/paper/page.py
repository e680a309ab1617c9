"""The page of all experiments beside the paper: one self-contained HTML file."""

import base64
from pathlib import Path

from unmask.reports.paper.claim_figures import claims_svg, drawn_claims
from unmask.reports.paper.comparison import Finding
from unmask.reports.paper.figures import figure_svg
from unmask.reports.paper.tables import cell_texts, describe_correlations, heads
from unmask.reports.render import render

# CSS classes of the verdicts, and what their totals are called
TONES = {
    "holds": "good",
    "does not hold": "bad",
    "no difference": "even",
    "cannot tell yet": "open",
    "not run": "quiet",
}
TOTAL_NAMES = {
    "holds": "claims hold",
    "does not hold": "claims do not hold",
    "no difference": "claims show no difference",
    "cannot tell yet": "claims cannot be told yet",
    "not run": "claims are not run yet",
}


def render_paper_page(
    findings: list[Finding],
    versions: str,
    sheet: bytes | None = None,
    anytime: bool = False,
) -> str:
    """Return the page's HTML; the same findings give the same text.

    versions: of the packages, as "torch 2.11.0, timm 1.0.26".
    sheet: the PNG of `ratio_sheet`, with three mask ratios. anytime: claims are judged
    after every seed.
    """
    comparisons = [finding.comparison for finding in findings]
    done = sum(comparison.done for comparison in comparisons)
    expected = sum(comparison.expected for comparison in comparisons)
    # class, number and name of each fact on top of the page
    facts = [("", f"{done:,} / {expected:,}", "results")]
    for verdict, tone in TONES.items():
        count = sum(comparison.verdict_counts[verdict] for comparison in comparisons)
        facts.append((tone, str(count), TOTAL_NAMES[verdict]))
    return render(
        Path(__file__).with_name("page.html.j2"),
        findings=findings,
        facts=facts,
        versions=versions,
        sheet=base64.b64encode(sheet).decode() if sheet else None,
        tones=TONES,
        anytime=anytime,
        figure_svg=figure_svg,
        claims_svg=claims_svg,
        drawn_claims=drawn_claims,
        known_page="known.html",
        heads=heads,
        cell_texts=cell_texts,
        describe_correlations=describe_correlations,
    )
