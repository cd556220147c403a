"""The report, opened in a browser."""

import json
import re
from pathlib import Path

import pytest

from onespike.audit import audit_run, save_report


@pytest.fixture
def report(make_run, tmp_path: Path) -> Path:
    evil = "run<script>document.title='broken'</script>"
    audits = [
        audit_run(make_run(evil.replace("/", "-"), top1=90.0), images=8, latency=False),
        audit_run(make_run("twin", top1=91.0, preset="ann"), images=8, latency=False),
    ]
    save_report(audits, tmp_path / "audit.html")
    return tmp_path / "audit.html"


def test_it_needs_nothing_else(report: Path):
    text = report.read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<script>document" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert len(json.loads(data[1])["audits"]) == 2


@pytest.mark.slow
def test_in_a_browser(report: Path, browser):
    page = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme="light")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
    page.goto(report.as_uri())
    assert page.title() == "What it costs"
    assert "dense multiply-accumulates" in page.inner_text("#lead")
    assert "<script>" in page.inner_text("#name")
    assert "(90.00%) takes " in page.inner_text("#comparison")
    for bars in ("#energy", "#operations", "#places"):
        hint = page.get_attribute(f"{bars} .track span", "title")
        assert hint.split(":")[0] in page.inner_text(f"{bars} .legend"), "a bar is called what the legend calls it"

    def column(number: int) -> list[str]:
        return [text for text in page.locator(f"#layers tbody td:nth-child({number})").all_inner_texts() if text]

    unsorted = column(1)
    page.click("#layers th:nth-child(4)")  # firing rates, the highest first
    rates = [float(text) for text in column(4)]
    assert rates == sorted(rates, reverse=True)
    assert column(1) != unsorted
    page.click("#layers th:nth-child(4)")
    assert [float(text) for text in column(4)] == sorted(rates)
    assert page.get_attribute("#layers th:nth-child(4)", "aria-sort") == "ascending"
    page.focus("#layers th:nth-child(1)")
    page.keyboard.press("Enter")
    assert page.get_attribute("#layers th:nth-child(1)", "aria-sort") == "ascending"

    def shown() -> tuple[str, str, str]:
        return page.inner_text("#cards"), page.inner_text("#energy"), page.inner_text("#convention-title")

    field = shown()
    page.click("button:text-is('int8')")
    for one, other in zip(field, shown(), strict=True):
        assert one != other
    assert "potentials in memory" not in page.inner_text("#energy")
    page.click("button:text-is('memory')")
    assert "potentials in memory" in page.inner_text("#energy")
    page.click("button:text-is('field')")
    assert shown() == field
    page.select_option("#network", "1")
    assert page.inner_text("#name").endswith("twin")

    second = page.evaluate("state.audit.layers[0].products = [{}, {}], lines()[1]")
    assert set(second) == {"product", "name"}, "what a layer does once stands in its first line"

    numbers = "[count(999600), count(2345e9), count(999.9), joule(9.9999e-7), joule(5e3), digits(1234), digits(999.9)]"
    assert page.evaluate(numbers) == ["1.00 M", "2345 G", "1.00 k", "1.00 µJ", "5000 J", "1234", "1000"]
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert complaints == []


@pytest.mark.slow
def test_dark_where_the_reader_likes_it_dark(report: Path, browser):
    page = browser.new_page(color_scheme="dark")
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
