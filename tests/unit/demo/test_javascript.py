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
const run = () => new Promise((done) => {
  globalThis.answers = () => done({ logits: { data: [0, 1] } });
  if (!globalThis.held) answers();
});
export const InferenceSession = { create: async () => ({ run }) };
"""
#: As much of a browser as the page asks for: elements keep what is written, canvases what they are told to draw.
BROWSER = """
const IMAGES = ["createImageData", "putImageData", "getImageData"], elements = {}, listeners = {};
const STROKES = ["fillRect", "drawImage", "beginPath", "moveTo", "lineTo", "stroke"];
class Element {
  drawn = [];
  dataset = {}; children = []; style = {}; tBodies = [{ replaceChildren() {} }];
  classList = { toggle() {}, add() {}, remove() {} };
  append(...more) { this.children.push(...more); }
  replaceChildren(...instead) { this.children = instead; }
  setAttribute(name, value) { this[name] = value; }
  setPointerCapture() {}
  getContext() {
    const images = IMAGES.map((name) => [name, () => ({ data: new Uint8ClampedArray(4) })]);
    return Object.fromEntries([...images, ...STROKES.map((name) => [name, () => { this.drawn.push(name); }])]);
  }
  get firstChild() { return this.children[0]; }
  click() { this.onclick(); }
}
const document = { documentElement: new Element(), body: new Element(), createElement: () => new Element() };
document.getElementById = (id) => (elements[id] ??= new Element());
const media = {}, described = JSON.parse(process.argv[1]);
const addEventListener = (name, react) => { listeners[name] = react; };
Object.assign(globalThis, { document, matchMedia: () => ({}), addEventListener });
globalThis.fetch = async () => ({ json: async () => described });
Object.defineProperty(globalThis, "navigator", { value: { mediaDevices: media } });
await import("./demo.js");
const soon = () => new Promise((done) => setTimeout(done, 20));
while (document.getElementById("status").textContent !== "") await soon();
await soon();
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


def described(channels: int) -> dict[str, Any]:
    """What the page is told of a network that reads so many channels."""
    return DESCRIBED | {"contract": {"in_channels": channels, "image_size": 1, "classes": ["a", "b"], "data": "some"}}


@pytest.fixture
def node(tmp_path: Path) -> Callable[..., Any]:
    """Run a script beside the page's own; gives what it prints, read as JSON."""
    shutil.copytree(PAGE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "ort.js").write_text(RUNTIME)

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
    assert node(BROWSER + script, described(channels)) == [hidden] * 3


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
    refused = "The camera shows nothing (forbidden): allow it, or choose a photo"
    assert node(BROWSER + script, described(3)) == [[True, ""], [False, refused]]


@pytest.mark.parametrize(
    ("event", "strokes"),
    [
        ({"button": 0, "buttons": 1, "isPrimary": True}, ["fillRect", "beginPath", "moveTo", "lineTo", "stroke"]),
        ({"button": 2, "buttons": 2, "isPrimary": True}, []),
        ({"button": 0, "buttons": 1, "isPrimary": False}, []),  # a second finger
    ],
)
def test_a_stroke_over_a_test_image_begins_a_new_drawing(event: dict, strokes: list, node: Callable) -> None:
    script = """
        const { stage } = elements, event = { ...JSON.parse(process.argv[2]), pointerId: 1 };
        stage.drawn.length = 0; // the test image
        stage.onpointerdown({ ...event, offsetX: 1, offsetY: 1 });
        const begun = [...stage.drawn];
        stage.onpointermove({ ...event, pointerId: 2, offsetX: 2, offsetY: 2 });
        stage.onpointerup({ ...event, pointerId: 2 });
        const others = stage.drawn.length;
        stage.onpointermove({ ...event, offsetX: 3, offsetY: 3 });
        const own = stage.drawn.length;
        stage.onpointermove({ ...event, buttons: 0, offsetX: 4, offsetY: 4 }); // let go outside
        stage.onpointermove({ ...event, offsetX: 5, offsetY: 5 });
        console.log(JSON.stringify([begun, others - begun.length, own - others > 0, stage.drawn.length - own]));"""
    assert node(BROWSER + script, described(1), event) == [strokes, 0, bool(strokes), 0]


def test_what_was_cleared_is_answered_no_more(node: Callable) -> None:
    script = """
        const [image] = elements.offered.children, answered = () => document.body.dataset.answered, before = answered();
        globalThis.held = true; // the network is slow
        image.onclick();
        elements.clear.onclick();
        answers();
        await soon();
        const [said] = elements.answer.children;
        const shown = [said.textContent, elements.rate.children, elements.hint.textContent];
        console.log(JSON.stringify([answered() - before, ...shown]));"""
    expected = [0, "\N{EN DASH}", ["\N{EN DASH}"], "draw here"]
    assert node(BROWSER + script, described(1)) == expected


def test_a_camera_that_fails_or_is_not_allowed_is_off_and_says_why(node: Callable) -> None:
    script = """
        const found = [];
        let stopped = 0;
        media.getUserMedia = async () => ({ getTracks: () => [{ stop() { stopped++; } }] });
        Element.prototype.play = async () => { throw new Error("no picture"); };
        elements.camera.onclick();
        await soon();
        found.push([stopped, elements.camera["aria-pressed"], elements.status.textContent]);
        Element.prototype.play = async () => {}; // but there is no OffscreenCanvas here
        process.on("unhandledRejection", (reason) => listeners.unhandledrejection({ reason }));
        elements.camera.onclick();
        await soon();
        found.push([stopped, elements.camera["aria-pressed"], elements.status.textContent]);
        delete navigator.mediaDevices;
        elements.camera.onclick();
        await soon();
        found.push([stopped, elements.camera["aria-pressed"], elements.status.textContent]);
        console.log(JSON.stringify(found));"""
    assert node(BROWSER + script, described(3)) == [
        [1, False, "The camera shows nothing (no picture): allow it, or choose a photo"],
        [2, False, "Something went wrong: OffscreenCanvas is not defined"],
        [2, False, "The camera shows nothing (browsers allow it on https and on localhost alone): choose a photo"],
    ]


def test_a_photo_that_cannot_be_drawn_is_not_called_unreadable(node: Callable) -> None:
    script = """
        process.on("unhandledRejection", (reason) => listeners.unhandledrejection({ reason }));
        const found = [], files = [{ name: "a.png" }], drop = { preventDefault() {}, dataTransfer: { files } };
        globalThis.createImageBitmap = async () => { throw new Error("broken"); };
        document.ondrop(drop);
        await soon();
        found.push(elements.status.textContent);
        globalThis.createImageBitmap = async () => ({ width: 2, height: 2 }); // but there is no OffscreenCanvas here
        document.ondrop(drop);
        await soon();
        found.push(elements.status.textContent);
        console.log(JSON.stringify(found));"""
    unreadable, other = node(BROWSER + script, described(3))
    assert unreadable == "a.png is no image that this browser can read: choose a PNG, JPEG or WebP"
    assert other == "Something went wrong: OffscreenCanvas is not defined"
