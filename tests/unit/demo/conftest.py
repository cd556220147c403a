"""Runs on the digits, pages made of them, and pages in a browser."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.demo.runtime import runtime
from onespike.demo.serve import address, server
from onespike.errors import OnespikeError
from onespike.models import model_config
from onespike.training.run import Run
from tests.unit.written_run import write_run

#: Small networks: strictly spiking; of windows, with spikes and real values; over time; a twin whose neurons are ReLUs.
NETWORKS: dict[str, dict[str, Any]] = {
    "spiking-vgg-xs": {"width": 6},
    "conv-tiny": {"channels": (6,), "depths": (2,)},
    "spiking-vgg11": {"width": 2, "time_steps": 2},
}


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Make a run of a network with random weights on the digits."""

    def make(name: str, **overrides: Any) -> Run:
        data = DataConfig(cache=str(tmp_path_factory.getbasetemp() / "digits"))
        images = (open_dataset(data).test.gather(torch.arange(64).numpy())[0].float() / 255 - 0.3) / 0.35
        folder, config = tmp_path_factory.mktemp("demo") / "run", model_config(name, **overrides)
        return write_run(folder, config, data, tuple("0123456789"), settle=lambda network: _settle(network, images))

    return make


def _settle(network: Any, images: Tensor) -> None:
    """Give a network the statistics of images (N, H, W, C), so that all its layers fire, and classes that differ."""
    nn.init.normal_(network.head.weight)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches: of the last few alone it is far from these
    network.train()
    with torch.no_grad():
        network(images.movedim(-1, 1))
        logits = network.eval()(images.movedim(-1, 1))
        network.head.bias -= logits.flatten(0, -2).mean(0)


@pytest.fixture
def fetched() -> None:
    """Skip a test where there is neither ONNX Runtime for browsers in the cache nor a network to fetch it."""
    pytest.importorskip("onnxruntime")
    try:
        runtime()
    except OnespikeError as error:
        pytest.skip(str(error))


class Page:
    """The demo in a browser."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.complaints, self._answered = page, list[str](), 0
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda one: one.url.startswith((url, "data:", "blob:")) or self.complaints.append(one.url))
        page.goto(url)
        page.wait_for_selector("body[data-answered='2']", timeout=120_000)

    def after(self, act: Callable[[], object]) -> dict[str, Any]:
        """Do something that shows the network an image; what the page says then."""
        before = int(self.page.get_attribute("body", "data-answered"))
        act()
        self.page.wait_for_selector(f"body:not([data-answered='{before}'])", timeout=60_000)
        return self.said()

    def said(self) -> dict[str, Any]:
        """The class, and all numbers in full."""
        numbers = {name: self.value(f"#{name} data") for name in ("rate", "operations")}
        shares = [float(one.get_attribute("value")) for one in self.page.locator("#classes data").all()]
        return {"class": self.page.inner_text("#answer b"), "shares": shares, **numbers}

    def value(self, selector: str) -> float:
        """A number that the page shows, in full."""
        return float(self.page.get_attribute(selector, "value"))

    def energy(self, convention: str) -> float:
        """The energy by one convention, in joule."""
        self.page.click(f"#conventions button:text-is('{convention}')")
        return self.value("#energy data")

    def show(self, pixels: Tensor, folder: Path) -> dict[str, Any]:
        """Let it look at an image (H, W, C) in a file."""
        picture = Image.fromarray(pixels.squeeze(-1).numpy())
        picture.save(folder / "image.png")
        return self.after(lambda: self.page.set_input_files("#file", folder / "image.png"))


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open the page in a folder."""

    @contextmanager
    def open_page(folder: Path, width: int = 1100, scheme: str = "light") -> Iterator[Page]:
        serving = server(folder)
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, permissions=["camera"]
        )
        try:
            yield Page(context.new_page(), address(serving))
        finally:
            context.close()
            serving.shutdown()
            thread.join()
            serving.server_close()

    return open_page
