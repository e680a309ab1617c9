"""The page of all experiments is one file that loads nothing and fits a narrow screen."""

import re
from pathlib import Path

import pytest

from browser import CHROMIUM, dump_dom
from planted_results import planted_findings
from unmask.reports.paper.page import render_paper_page

PNG = b"\x89PNG\r\n\x1a\nnot really"


@pytest.fixture(scope="module")
def page() -> str:
    return render_paper_page(planted_findings(), "torch 2.11.0", PNG)


def test_the_page_loads_nothing(page: str) -> None:
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    expected = r"#|data:|https://arxiv\.org/|known\.html$"
    assert all(re.match(expected, link) for link in links)
    assert not re.search(r"<script|<link|@import|url\((?!#)", page)
    assert "https://arxiv.org/abs/2111.06377" in links


def test_every_link_of_the_summary_has_one_section(page: str) -> None:
    anchors = re.findall(r'<a href="#([^"]+)"', page)
    assert len(anchors) == 4
    assert all(page.count(f'<section id="{anchor}"') == 1 for anchor in anchors)


def test_identifiers_are_unique_and_references_have_one(page: str) -> None:
    """Figures share the page, and each must refer to its own parts."""
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(identifiers)) == len(identifiers)
    referred = re.findall(r'href="#([^"]+)|url\(#([^)]+)', page)
    assert {first or second for first, second in referred} <= {*identifiers}


def test_readers_of_screens_tell_tables_apart(page: str) -> None:
    labels = re.findall(r'role="region" aria-label="([^"]+)"', page)
    assert len(labels) == 1 + page.count('<section id="') - page.count('id="ratios"')
    assert len(set(labels)) == len(labels)


def test_every_verdict_has_its_colour_and_its_reason(page: str) -> None:
    for tone, verdict in (
        ("good", "holds"),
        ("bad", "does not hold"),
        ("even", r"no difference of more than 0\.\d\d points"),
        ("open", "cannot tell yet"),
    ):
        assert re.search(
            rf'<li class="{tone}"><b>{verdict}</b><p>[^<]+</p><p'
            r' class="small">[^<]+</p>',
            page,
        )
    assert "1 holds, 1 does not, 1 show no difference, 1 cannot " in page
    assert "Nothing: like for like." in page


def test_optional_parts_are_shown_or_leave_no_trace(page: str) -> None:
    # Table 1c is a table in the paper as well; claims of two tables have been looked at
    assert page.count("<svg") == 3 + page.count("Each line is a claim")
    assert "data:image/png;base64," in page
    assert "Made with torch 2.11.0." in page
    bare = render_paper_page(planted_findings()[:1], "", None)
    assert "data:image/png" not in bare
    assert "None" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S)


def test_the_same_findings_give_the_same_text(page: str) -> None:
    assert render_paper_page(planted_findings(), "torch 2.11.0", PNG) == page


def test_names_with_markup_are_shown_as_text(page: str) -> None:
    finding = planted_findings()[0]
    finding.comparison.protocol_differences.append("<b>bold</b>")
    assert "&lt;b&gt;bold&lt;/b&gt;" in render_paper_page([finding], "")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_page(page: str, width: int, tmp_path: Path) -> None:
    # A frame of that width, as headless windows cannot be narrow themselves.
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "frame.html").write_text(
        f'<iframe id="f" src="page.html" width="{width}" height="800"'
        ' frameborder="0"></iframe><script>onload = () => { const d ='
        " f.contentDocument.documentElement;document.title = `measured"
        " ${d.clientWidth} ${d.scrollWidth}`; }</script>"
    )
    shown, complaints = dump_dom(tmp_path / "frame.html", 3_000, "--hide-scrollbars")
    measured = re.search(r"<title>measured (\d+) (\d+)</title>", shown)
    assert measured, complaints[-500:]
    assert int(measured[1]) == width
    assert int(measured[2]) <= width
