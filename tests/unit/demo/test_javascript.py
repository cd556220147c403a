"""The page's scripts without a browser, by node: what they say, and what they do when somebody changes his mind."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onespike.demo.build import PAGE

if shutil.which("node") is None:
    pytest.skip("there is no node", allow_module_level=True)

RUNTIME = """export const env = { wasm: {} };
export class Tensor {}
export const InferenceSession = { create: async () => ({ run: async () => ({ logits: { data: [0, 1] } }) }) };
"""
#: As much of a browser as the page asks for: elements keep what is written, canvases draw nothing.
BROWSER = """
const NAMES = ["fillRect", "drawImage", "createImageData", "putImageData", "getImageData"], elements = {};
const nothing = () => ({ data: new Uint8ClampedArray(4) });
class Element {
  dataset = {}; children = []; style = {}; tBodies = [{ replaceChildren() {} }];
  classList = { toggle() {}, add() {}, remove() {} };
  append(...more) { this.children.push(...more); }
  replaceChildren() {}
  setAttribute(name, value) { this[name] = value; }
  getContext() { return Object.fromEntries(NAMES.map((name) => [name, nothing])); }
  get firstChild() { return this.children[0]; }
  click() { this.onclick(); }
}
const document = { documentElement: new Element(), body: new Element(), createElement: () => new Element() };
document.getElementById = (id) => (elements[id] ??= new Element());
const media = {}, described = JSON.parse(process.argv[1]);
Object.assign(globalThis, { document, matchMedia: () => ({}), addEventListener() {} });
globalThis.fetch = async () => ({ json: async () => described });
Object.defineProperty(globalThis, "navigator", { value: { mediaDevices: media } });
await import("./demo.js");
const soon = () => new Promise((done) => setTimeout(done, 20));
while (document.getElementById("status").textContent !== "") await soon();
"""
DESCRIBED: dict[str, Any] = {
    "title": "a network",
    "layers": [],
    "costs": {"products": [], "titles": {"memory": ""}, "sources": {}, "rest": {"memory": 0}},
    "parity": {"same_class": 100, "images": 1, "holds": True},
    "images": 1,
    "top1": None,
    "cells": None,
    "offered": [{"pixels": "AAAA", "label": 0}],
}


@pytest.fixture
def node(tmp_path: Path) -> Callable[..., Any]:
    """Run a script beside the page's own; gives what it prints, read as JSON."""
    shutil.copytree(PAGE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "ort.wasm.bundle.min.mjs").write_text(RUNTIME)

    def run(script: str, *given: Any) -> Any:
        command = ["node", "--input-type=module", "-e", script, *map(json.dumps, given)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert not done.returncode, done.stderr
        return json.loads(done.stdout)

    return run


def test_energy_has_three_digits_and_their_unit(node: Callable) -> None:
    script = "import { joule } from './counts.js'; console.log(JSON.stringify(JSON.parse(process.argv[1]).map(joule)));"
    energies = {9.996e-7: "1.00 µJ", 9.994e-7: "999 nJ", 0: "0.00 nJ", 1.2e-10: "0.120 nJ", 2e-4: "200 µJ"}
    energies |= {0.9996: "1.00 J", 0.0421: "42.1 mJ", 1.5: "1.50 J"}
    assert node(script, list(energies)) == list(energies.values())


@pytest.mark.parametrize(
    ("dims", "axis", "ahead", "shape"),
    [
        ([1, 8, 6, 6], 0, "tokens", "8 channels of 6x6"),
        ([4, 1, 8, 6, 6], 1, "windows", "4 windows x 8 channels of 6x6"),
        ([4, 8, 6, 6], 0, "windows", "4 windows x 8 channels of 6x6"),
        ([1, 1, 8, 6, 6], 1, "neurons of a population", "8 channels of 6x6"),
        ([3, 1, 8, 6, 6], 1, "neurons of a population", "3 neurons of a population x 8 channels of 6x6"),
        ([1, 1, 64, 48], 1, "neurons of a population", "64 tokens x 48 neurons"),
        ([64, 1, 48], 1, "tokens", "64 tokens x 48 neurons"),
        ([1, 48], 0, "tokens", "48 neurons"),
    ],
)
def test_maps_say_what_their_axes_are(dims: list[int], axis: int, ahead: str, shape: str, node: Callable) -> None:
    script = """import { tiles } from "./maps.js";
        const [dims, axis, ahead] = JSON.parse(process.argv[1]), data = new Float32Array(dims.reduce((a, b) => a * b));
        const { shape, count, area } = tiles({ dims, data }, axis, ahead);
        console.log(JSON.stringify([shape, count * area === data.length]));"""
    assert node(script, [dims, axis, ahead]) == [shape.replace("x", "\N{MULTIPLICATION SIGN}"), True]


def test_layers_of_many_neurons_are_drawn(node: Callable) -> None:
    """Each map has its mean beside it; what has no map has none."""
    script = """import { drawLayers } from "./maps.js";
        let drawn = 0;
        const [dims, layers] = JSON.parse(process.argv[1]), outputs = {};
        const image = (width, height) => ({ data: new Uint8ClampedArray(4 * width * height) });
        class Element {
          children = []; style = {}; clientWidth = 800;
          append(...more) { this.children.push(...more); }
          replaceChildren() {}
          getContext() { return { createImageData: image, putImageData() { drawn++; } }; }
        }
        globalThis.document = { documentElement: {}, createElement: () => new Element() };
        globalThis.getComputedStyle = () => ({ getPropertyValue: () => "#102030" });
        layers.forEach(({ output }, i) => {
          outputs[output] = { dims: dims[i], data: new Float32Array(dims[i].reduce((a, b) => a * b)).fill(1) };
        });
        drawLayers(new Element(), layers, outputs, false);
        console.log(JSON.stringify(drawn));"""
    layers = [{"name": name, "output": name, "axis": 0, "ahead": "tokens"} for name in ("map", "neurons")]
    assert node(script, [[[1, 1, 500, 500], [1, 250_000]], layers]) == 3


def test_what_is_transparent_lies_on_white(node: Callable) -> None:
    script = """import { pixels } from "./image.js";
        const done = [];
        globalThis.OffscreenCanvas = class {
          constructor(width) { this.width = this.height = width; }
          getContext() {
            const width = this.width;
            return {
              fillRect() { done.push(["fill", width, this.fillStyle]); },
              drawImage() { done.push(["draw", width]); },
              getImageData: () => ({ data: new Uint8ClampedArray(4 * width * width) }),
            };
          }
        };
        pixels({}, 20, 20, 4, 1);
        console.log(JSON.stringify(done));"""
    done = node(script)
    assert ["fill", 4, "#fff"] in done
    assert done[-1] == ["draw", 4]
    assert [one for one in done if one[0] == "fill"] == [["fill", 4, "#fff"]]  # the halves keep what is transparent


@pytest.mark.parametrize(("cells", "side", "border"), [(8, 8, 0), (8, 32, 0), (None, 28, 4)])
def test_drawings_have_a_border_where_the_images_have_one(cells: int | None, side: int, border: int, node: Callable):
    """Those of the digits have none, whether they were enlarged or not."""
    script = """import { drawn } from "./image.js";
        const [cells, side] = JSON.parse(process.argv[1]);
        const white = (count) => new Uint8ClampedArray(4 * count).fill(255);
        let border = 0;
        globalThis.OffscreenCanvas = class {
          getContext() {
            return {
              drawImage(...places) { border = places[5]; },
              getImageData: () => ({ data: white(side * side) }),
            };
          }
        };
        const context = { getImageData: () => ({ data: white(400) }) };
        const seen = drawn({ width: 20, height: 20, getContext: () => context }, cells, side);
        console.log(JSON.stringify([border, seen.length, Math.min(...seen)]));"""
    assert node(script, [cells, side]) == [border, side * side, 255]


@pytest.mark.parametrize(("channels", "hidden"), [(1, False), (2, True), (3, False)])
def test_photos_are_for_networks_of_images(channels: int, hidden: bool, node: Callable) -> None:
    script = """
        const { pick, camera } = elements;
        let opened = 0;
        globalThis.createImageBitmap = async () => { opened++; throw new Error(); };
        document.ondrop({ preventDefault() {}, dataTransfer: { files: [{ name: "a" }] } });
        console.log(JSON.stringify([pick.hidden, camera.hidden, opened === 0]));"""
    contract = {"in_channels": channels, "image_size": 1, "classes": ["a", "b"], "data": "a data set"}
    assert node(BROWSER + script, {**DESCRIBED, "contract": contract}) == [hidden] * 3


def test_a_camera_that_is_refused_leaves_what_was_chosen_meanwhile(node: Callable) -> None:
    script = """
        let refuse;
        media.getUserMedia = () => new Promise((_, no) => { refuse = no; });
        const [image] = elements.offered.children, found = [];
        for (const meanwhile of [() => image.onclick(), () => {}]) {
          elements.camera.onclick();
          meanwhile();
          refuse(new Error("forbidden"));
          await soon();
          found.push([image["aria-pressed"], elements.status.textContent]);
        }
        console.log(JSON.stringify(found));"""
    contract = {"in_channels": 3, "image_size": 1, "classes": ["a", "b"], "data": "a data set"}
    refused = "There is no camera to look through (forbidden): allow it, or choose a photo"
    assert node(BROWSER + script, {**DESCRIBED, "contract": contract}) == [[True, ""], [False, refused]]
