"""The page of all experiments: one file that loads nothing, and that a narrow screen can show."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from planted_results import sections
from unmask.reports.paper.page import paper_page, write_paper_page

CHROMIUM = shutil.which("chromium")
PNG = b"\x89PNG\r\n\x1a\nnot really"


@pytest.fixture(scope="module")
def page() -> str:
    return paper_page(sections(), "torch 2.11.0", PNG)


def test_the_page_loads_nothing(page: str) -> None:
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert all(re.match(r"#|data:|https://arxiv\.org/", link) for link in links)
    assert not re.search(r"<script|<link|@import|url\((?!#)", page)
    assert "https://arxiv.org/abs/2111.06377" in links


def test_every_anchor_of_the_summary_is_there_once(page: str) -> None:
    anchors = re.findall(r'<a href="#([^"]+)"', page)
    assert len(anchors) == 4
    assert all(page.count(f'<section id="{anchor}"') == 1 for anchor in anchors)


def test_no_identifier_is_given_twice(page: str) -> None:
    """Figures share the page: what one refers to must be its own."""
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(identifiers)) == len(identifiers)
    referred = re.findall(r'href="#([^"]+)|url\(#([^)]+)', page)
    assert {first or second for first, second in referred} <= {*identifiers}


def test_every_verdict_is_said_in_its_colour_with_its_reason(page: str) -> None:
    for tone, verdict in (
        ("good", "holds"),
        ("bad", "does not hold"),
        ("open", "cannot tell"),
    ):
        assert re.search(
            rf'<li class="{tone}"><b>{verdict}</b><p>[^<]+</p><p'
            r' class="small">[^<]+</p>',
            page,
        )
    assert "1 holds, 1 does not, 1 cannot be told" in page
    assert "Nothing: like for like." in page


def test_what_was_given_is_shown_and_what_was_not_leaves_no_hole(page: str) -> None:
    assert page.count("<svg") == 3  # Table 1c is a table in the paper as well
    assert "data:image/png;base64," in page
    assert "Made with torch 2.11.0." in page
    bare = paper_page(sections()[:1], "", None)
    assert "data:image/png" not in bare
    assert "None" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path, page: str) -> None:
    path = write_paper_page(
        tmp_path / "pages" / "paper.html", sections(), "torch 2.11.0", PNG
    )
    assert path.read_text() == page


def test_names_with_markup_are_text(page: str) -> None:
    given = sections()[0]
    given.content.differences.append("<b>bold</b>")
    assert "&lt;b&gt;bold&lt;/b&gt;" in paper_page([given], "")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_page(page: str, width: int, tmp_path: Path) -> None:
    """In a frame of that width, as headless windows have a least width of their own."""
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "frame.html").write_text(
        f'<iframe id="f" src="page.html" width="{width}" height="800"'
        ' frameborder="0"></iframe><script>onload = () => { const d ='
        " f.contentDocument.documentElement;document.title = `measured"
        " ${d.clientWidth} ${d.scrollWidth}`; }</script>"
    )
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        "--virtual-time-budget=3000",
        "--dump-dom",
        (tmp_path / "frame.html").as_uri(),
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    measured = re.search(r"<title>measured (\d+) (\d+)</title>", found.stdout)
    assert measured, found.stderr[-500:]
    assert int(measured[1]) == width
    assert int(measured[2]) <= width
