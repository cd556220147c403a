"""The page in a browser: it answers as PyTorch does, and counts what the audit counts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import onespike
from onespike.audit import audit
from onespike.counting import CONVENTIONS, count_operations
from onespike.demo import build
from onespike.exporting import Contract
from onespike.exporting.export import some_test_images
from tests.unit.demo.conftest import NETWORKS

pytestmark = [pytest.mark.usefixtures("fetched"), pytest.mark.slow]
IMAGES = 12


@pytest.mark.parametrize("name", NETWORKS)
def test_it_answers_as_pytorch_does_and_counts_as_the_audit_does(
    name: str, make_run: Callable, opened: Callable, tmp_path: Path
) -> None:
    run = make_run(name, **NETWORKS[name])
    made = build(run, tmp_path / "page", images=IMAGES)
    assert made.parity.holds
    card = run.checkpoint("best").card
    raw = some_test_images(run.dataset(), IMAGES)[0]  # the same: how large a graded spike is depends on the images
    images = Contract.of(card, "fp32", pixels=True).normalise(raw)
    network = run.model()
    with torch.no_grad():
        logits = network(images)
    logits = logits.mean(0) if logits.ndim == 3 else logits
    said: list[dict[str, Any]] = []
    with opened(made.folder) as demo:
        for pixels in raw:
            said.append(demo.show(pixels, tmp_path))
            assert demo.value("#milliseconds data") > 0
            said[-1] |= {convention: demo.energy(convention) for convention in CONVENTIONS}
            binary = demo.page.locator("#products tr:has(td:text-is('binary')) td:nth-child(4) data")
            said[-1]["binary"] = [float(one.get_attribute("value")) for one in binary.all()]
        assert demo.complaints == []
    assert [one["class"] for one in said] == [card.classes[i] for i in logits.argmax(1).tolist()]
    assert len({one["class"] for one in said}) > 1
    torch.testing.assert_close(torch.tensor([one["shares"] for one in said]), logits.softmax(1), atol=1e-4, rtol=1e-4)

    def mean(key: str) -> float:
        return sum(one[key] for one in said) / IMAGES

    counted = audit(network, [images])
    assert mean("operations") == pytest.approx(counted.operations.synaptic_operations, rel=1e-12)
    assert mean("rate") == pytest.approx(counted.operations.firing_rate, rel=1e-9)
    for convention in CONVENTIONS:
        assert mean(convention) == pytest.approx(counted.energy(convention).total, rel=1e-9)
    described = json.loads((made.folder / "demo.json").read_text())["costs"]["products"]
    own = [one["arrives"] == "binary" and "counted" in one for one in described]
    assert sum(own) >= sum(one["arrives"] == "binary" for one in described) - 1  # all but, perhaps, the head
    for image, one in zip(images[:3], said, strict=False):
        products = count_operations(network, [image[None]]).products
        alone = [product.operations for product, counts in zip(products, own, strict=True) if counts]
        assert one["binary"] == alone
        assert sum(alone) > 0


def test_one_can_draw_choose_film_and_read_it_on_a_phone(make_run: Callable, opened: Callable, tmp_path: Path) -> None:
    run = make_run("spiking-vgg-xs", width=4)
    made = build(run, tmp_path / "page", images=10)
    with opened(made.folder, width=390) as demo:
        page = demo.page
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        raw = some_test_images(run.dataset(), 10)[0]
        chosen = demo.after(lambda: page.click("#offered button:nth-child(2)"))
        assert page.get_attribute("#offered button:nth-child(2)", "aria-pressed") == "true"
        shown = demo.show(raw[1], tmp_path)
        assert chosen == shown  # the file's pixels are the test image's
        assert page.locator("#offered button[aria-pressed='true']").count() == 0
        inverted = demo.after(lambda: page.check("#invert"))
        assert inverted != shown
        assert demo.after(lambda: page.uncheck("#invert")) == shown
        assert demo.show(255 - raw[1], tmp_path) == inverted

        page.click("#clear")
        assert page.inner_text("#hint") == "draw here"
        assert page.evaluate("invert.onchange === null")  # nobody sees the photo any more
        box = page.locator("#stage").bounding_box()

        def stroke() -> None:
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 20, steps=4)
            page.mouse.up()

        drawn = demo.after(stroke)
        assert drawn != inverted
        seen = page.evaluate("Array.from(seen.getContext('2d').getImageData(0, 16, 32, 1).data)")[::4]
        assert seen[:6] == [0] * 6 == seen[-6:]  # a stroke in the middle, from top to bottom
        assert seen[15] == seen[16] > 150

        few = page.locator("#layers canvas").last.bounding_box()["height"]
        page.check("#all")
        assert page.locator("#layers canvas").last.bounding_box()["height"] > few
        demo.after(lambda: page.click("#camera"))
        assert page.get_attribute("#camera", "aria-pressed") == "true"
        page.click("#camera")
        assert page.get_attribute("#camera", "aria-pressed") == "false"
        page.evaluate(
            "void (navigator.mediaDevices.getUserMedia = () => new Promise((done) => { window.permit = done; }))"
        )
        page.click("#camera")
        page.click("#draw")
        page.evaluate("permit({ getTracks: () => [{ stop: () => { window.isOff = true; } }] })")
        page.wait_for_function("window.isOff")  # what came after one had left for drawing

        (tmp_path / "notes.txt").write_text("no image")
        page.set_input_files("#file", tmp_path / "notes.txt")
        page.wait_for_selector("#status:not(:empty)")
        assert "notes.txt is no image that this browser can read" in page.inner_text("#status")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert demo.complaints == []


def test_the_packages_network_knows_digits_that_are_drawn(opened: Callable, tmp_path: Path) -> None:
    run = onespike.Run.open("pretrained:digits-spiking-vgg-xs")
    made = build(run, tmp_path / "page")
    raw, labels = run.dataset().test.gather(torch.arange(IMAGES).numpy())
    with opened(made.folder) as demo:
        found = [int(demo.show(pixels, tmp_path)["class"]) for pixels in raw]
        assert sum(a == b for a, b in zip(found, labels.tolist(), strict=True)) >= IMAGES - 2
        demo.page.click("#clear")
        box = demo.page.locator("#stage").bounding_box()
        ring = [(0.5, 0.1), (0.25, 0.3), (0.25, 0.7), (0.5, 0.9), (0.75, 0.7), (0.75, 0.3), (0.5, 0.1)]

        def draw() -> None:
            for number, (x, y) in enumerate(ring):
                demo.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
                if not number:
                    demo.page.mouse.down()
            demo.page.mouse.up()

        demo.after(draw)
        demo.page.wait_for_timeout(1000)  # for the last part of the stroke
        assert demo.said()["class"] == "0"


def test_cifar_classes_are_pytorchs(opened: Callable, shared_data: Path, tmp_path: Path) -> None:
    start = {"data.root": str(shared_data / "cifar10"), "data.limit": 600, "data.cache": str(tmp_path / "cache")}
    choices = start | {"model.width": 8, "train.epochs": 1, "train.precision": "fp32"}
    onespike.train(onespike.load_recipe("cifar10/fast", choices), tmp_path / "run", quiet=True)
    run = onespike.Run.open(tmp_path / "run")
    made = build(run, tmp_path / "page", images=50)
    raw = run.dataset().test.gather(torch.arange(IMAGES).numpy())[0]
    card = run.checkpoint("best").card
    with torch.no_grad():
        expected = run.model()(Contract.of(card, "fp32", pixels=True).normalise(raw)).argmax(1)
    with opened(made.folder) as demo:
        found = [demo.show(pixels, tmp_path)["class"] for pixels in raw]
        assert found == [card.classes[i] for i in expected.tolist()]
        assert not demo.page.is_visible("#draw")
        assert not demo.page.is_visible("#inverted")
        assert demo.complaints == []
