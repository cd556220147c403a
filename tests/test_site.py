"""The documentation, built as `make docs` builds it, and opened in a browser."""

import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onespike.demo.serve import address, server

ROOT = Path(__file__).parents[1]
PHONE = {"width": 390, "height": 844}
pytestmark = pytest.mark.slow


def files() -> set[Path]:
    """What lies where notebooks lie, and would run if they were opened there."""
    return {one for one in (ROOT / "docs").rglob("*") if "__pycache__" not in one.parts}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Where the site lies, and where it is served."""
    pytest.importorskip("mkdocs", reason="no site can be built: pip install 'onespike[docs]'")
    folder = tmp_path_factory.mktemp("site") / "site"
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    before = files()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert files() == before
    serving = server(folder)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield folder, address(serving)
    serving.shutdown()
    thread.join()
    serving.server_close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_readable_on_a_phone(site: tuple[Path, str], scheme: str, browser: Any) -> None:
    folder, url = site
    page, complaints = browser.new_page(viewport=PHONE, color_scheme=scheme), list[str]()
    page.on("console", lambda message: complaints.append(f"{page.url}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
    page.on("request", lambda one: one.url.startswith((url, "data:", "blob:")) or complaints.append(one.url))
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html") if path.name != "404.html")
    pages = [one for one in pages if one != "demo/index.html"]  # it has tests of its own
    kinds = {"index.html", "options.html", "recipes.html", "models.html", "api/neurons.html"}
    assert kinds < set(pages)
    pages = pages if scheme == "light" else sorted(kinds)
    backgrounds = set()
    for one in pages:
        page.goto(url + one)
        page.wait_for_selector("article h1")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], one
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 1
    shade = int(backgrounds.pop().removeprefix("rgb(").split(",")[0])
    assert (shade > 200) == (scheme == "light")
    assert complaints == []


@pytest.mark.parametrize("word", ["surrogate", "potential"])
def test_search_finds(site: tuple[Path, str], word: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(site[1] + "index.html")
    page.wait_for_selector("article h1")
    page.locator("input.md-search__input").click()
    page.locator("input.md-search__input").fill(word)
    page.wait_for_selector(".md-search-result__item a")
    assert word in page.locator(".md-search-result__item").first.inner_text().lower()


def test_tutorials_show_what_their_code_gave(site: tuple[Path, str], browser: Any) -> None:
    page = browser.new_page()
    notebooks = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
    assert len(notebooks) == 6
    for notebook in notebooks:
        page.goto(f"{site[1]}tutorials/{notebook.stem}.html")
        assert page.locator("article .output").count() >= 2
        drawn = page.locator("article img").all()
        assert all(one.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100 for one in drawn)
        assert len(drawn) >= (notebook.name[0] != "5")
        download = page.locator("article a[download]").get_attribute("href")
        assert (site[0] / "tutorials" / download).read_bytes() == notebook.read_bytes()


@pytest.mark.usefixtures("site")
def test_tutorials_run_without_complaints() -> None:
    executed = runpy.run_path(str(ROOT / "docs" / "notebooks.py"))["executed"]  # from what building the site kept
    cells = [cell for path in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")) for cell in executed(path).cells]
    said = [one.text for cell in cells for one in cell.get("outputs", ()) if one.get("name") == "stderr"]
    assert said == [one for one in said if "TqdmWarning" in one]


def test_the_demo_is_offered_and_answers(site: tuple[Path, str], browser: Any) -> None:
    if not (site[0] / "demo").exists():
        pytest.skip("ONNX Runtime for browsers is not in the cache and cannot be fetched")
    page = browser.new_page()
    page.goto(site[1] + "demo.html")
    page.click("text=Draw a digit")
    page.wait_for_selector("body[data-answered='2']", timeout=120_000)
    assert page.inner_text("#answer b") in set("0123456789")


def test_it_holds_every_option_recipe_model_and_public_name(site: tuple[Path, str]) -> None:
    import onespike
    from onespike.models import model_names
    from onespike.training.recipe import option_names, recipe_names

    def text(name: str) -> str:
        return (site[0] / name).read_text()

    assert [
        one for one in option_names() if one.startswith(("data.", "train.")) and one not in text("options.html")
    ] == []
    assert [one for one in recipe_names() if f">{one}<" not in text("recipes.html")] == []
    ours = [one for one in model_names() if not one.startswith("spikingjelly-")]
    assert [one for one in ours if f"<code>{one}</code>" not in text("models.html")] == []
    functions = [one for one in onespike.__all__ if callable(getattr(onespike, one))]
    assert [one for one in functions if one not in text("api/onespike.html")] == []
