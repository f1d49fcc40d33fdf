"""What a log says is shown in a page, and is never part of it."""

from __future__ import annotations

from html.parser import HTMLParser

from knhk.reconcilers import index_pages


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.text = list[str](), ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_of_others_stays_text() -> None:
    evil = """</td><script>alert(1)</script><img src=x onerror="alert(1)">`</code><b>`"""
    link = index_pages.Link(f'receipts/" onclick="x{evil}', evil)
    parts = (index_pages.paragraph(evil), index_pages.heading(evil), index_pages.listed((evil,)), index_pages.commands(evil))
    seen = Seen()
    seen.feed(index_pages.page(evil, *parts, index_pages.table((evil,), ((link, evil),))))
    assert not {"script", "img", "b"} & set(seen.tags)
    assert seen.text.count("<script>") == 9


def test_a_stranger_is_told_what_to_do() -> None:
    told = index_pages.how_to_check()
    assert "python3 -B -m knhk_verify --root" in told
    assert "pip install cryptography" in told
    assert "eight files that end in <code>.py</code>" in told
    assert "root.pub" in told
