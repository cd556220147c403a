// The page: it loads the network, takes an image from the hand, a file or the camera, and shows what the network did.

import * as ort from "./ort.js";
import { count, energy, joule, rates, softmax, synaptic } from "./counts.js";
import { drawn, offered, pixels, show } from "./image.js";
import { drawLayers, make } from "./maps.js";

const at = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const PEN = 38, SHOWN = 10; // pixels; classes

let about, session, convention = "memory", last = null, mode = "", stream = null;
let chosen = {}; // another one whenever somebody chooses: what was begun before is of no use then
let covered = false; // whether a test image lies where one draws

// The theme first: it needs nothing that has to be loaded.
function theme(name) {
  document.documentElement.dataset.theme = name;
  at("theme").textContent = name === "dark" ? "Light" : "Dark";
  if (last) drawMaps();
}
theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
at("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");

/** Whether one can draw for the network: it reads grey images. */
const draws = () => about.contract.in_channels === 1;

/** A number for a person, which holds the exact one for whoever wants it. */
function value(exact, text) {
  return make("data", { value: exact, textContent: text, title: exact });
}

// What the network looks at: one image at a time, always the newest.
let waiting = null, running = false;
async function look(bytes) {
  waiting = bytes;
  if (running) return;
  running = true;
  while (waiting) {
    const image = waiting, own = chosen;
    waiting = null;
    try {
      await answer(image);
    } catch (error) {
      if (own === chosen) at("status").textContent = `The network failed: ${error.message}`;
    }
  }
  running = false;
}

/** Show no answer: the image is gone. */
function forget() {
  last = null;
  at("answer").replaceChildren(make("b", { textContent: "–" }));
  for (const id of ["milliseconds", "rate", "operations", "energy"]) at(id).replaceChildren("–");
  for (const place of [at("classes"), at("layers"), at("products").tBodies[0]]) place.replaceChildren();
  at("seen").width = at("seen").height = about.contract.image_size; // which empties it
}

async function answer(bytes) {
  const { in_channels: channels, image_size: side } = about.contract, own = chosen;
  show(at("seen"), bytes, side);
  const images = new ort.Tensor("uint8", bytes, [1, channels, side, side]), start = performance.now();
  const outputs = await session.run({ images }), milliseconds = performance.now() - start;
  if (own !== chosen) return;
  const counts = about.costs.products.map((product) => count(product, outputs));
  last = { outputs, counts, milliseconds, rates: rates(about.layers, outputs) };
  showClasses(softmax(outputs.logits.data));
  showNumbers();
  showProducts();
  drawMaps();
  at("status").textContent = "";
  document.body.dataset.answered = Number(document.body.dataset.answered ?? 0) + 1;
}

function showClasses(shares) {
  const names = about.contract.classes;
  const order = names.map((_, i) => i).sort((a, b) => shares[b] - shares[a]);
  const name = make("b", { textContent: names[order[0]] });
  at("answer").replaceChildren(name, value(shares[order[0]], `${(100 * shares[order[0]]).toFixed(1)}%`));
  const shown = names.length <= SHOWN ? names.map((_, i) => i) : order.slice(0, SHOWN);
  at("classes").replaceChildren(...shown.map((i) => {
    const row = make("div", { className: "row" }), track = make("div", { className: "track" });
    const bar = make("span"), share = make("span");
    bar.style.width = `${100 * shares[i]}%`;
    track.append(bar);
    share.append(value(shares[i], `${(100 * shares[i]).toFixed(1)}%`));
    row.append(make("span", { textContent: names[i], title: names[i] }), track, share);
    return row;
  }));
}

function showNumbers() {
  const { products, titles } = about.costs, usual = products.map((one) => one.mean);
  at("usual-operations").textContent = `mean of ${number.format(about.images)} test images: ${number.format(synaptic(products, usual))}`;
  at("usual-energy").textContent = `mean of ${number.format(about.images)} test images: ${joule(energy(about.costs, usual, convention))}`;
  at("title").textContent = titles[convention];
  for (const button of at("conventions").children) press(button, button.textContent === convention);
  if (!last) return;
  const { counts, milliseconds } = last, operations = synaptic(products, counts), spent = energy(about.costs, counts, convention);
  const rate = last.rates.reduce((sum, [, one]) => sum + one, 0) / Math.max(last.rates.length, 1);
  at("milliseconds").replaceChildren(value(milliseconds, `${milliseconds.toFixed(1)} ms`));
  at("rate").replaceChildren(value(rate, `${(100 * rate).toFixed(1)}%`));
  at("operations").replaceChildren(value(operations, number.format(operations)));
  at("energy").replaceChildren(value(spent, joule(spent)));
}

function showProducts() {
  at("products").tBodies[0].replaceChildren(...about.costs.products.map((product, i) => {
    const { spikes, operations, own } = last.counts[i], real = product.arrives === "real", row = make("tr");
    const texts = [
      `${product.path} (${product.name})`,
      product.arrives,
      real ? "–" : own ? value(spikes, number.format(spikes)) : "mean",
      real ? `${number.format(operations)} MACs` : own ? value(operations, number.format(operations)) : "mean",
      number.format(product.mean.operations),
    ];
    row.append(...texts.map((text) => {
      const cell = make("td");
      cell.append(text);
      return cell;
    }));
    row.firstChild.replaceChildren(...texts[0].split(".").flatMap((part, i) => (i ? [make("wbr"), `.${part}`] : [part])));
    return row;
  }));
}

function drawMaps() {
  drawLayers(at("layers"), about.layers, last.outputs, at("all").checked);
}
at("all").onchange = () => last && drawMaps();
let resized;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => last && drawMaps(), 100);
});

/** Show a button as pressed or not; browsers of 2023 know the attribute, but not the property. */
function press(button, on) {
  button.setAttribute("aria-pressed", on);
}

// Where the image comes from.
function choose(name) {
  mode = name;
  chosen = {};
  waiting = null;
  covered = false;
  if (name !== "camera" && stream) {
    stream.getTracks().forEach((track) => track.stop());
    stream = null;
  }
  at("invert").onchange = null; // that of the image before
  for (const id of ["draw", "pick", "camera"]) press(at(id), id === name);
  at("stage").classList.toggle("drawing", name === "draw");
  at("answer").setAttribute("aria-live", name === "camera" ? "off" : "polite"); // nobody can listen to every frame
  at("status").textContent = at("hint").textContent = "";
  for (const button of at("offered").children) press(button, false);
}

function blank() {
  const context = at("stage").getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000";
  context.fillRect(0, 0, at("stage").width, at("stage").height);
}

/** Show a photo or a frame on the stage, its centre square, and let the network see it. */
function take(source, width, height) {
  const { in_channels: channels, image_size: side } = about.contract, stage = at("stage"), square = Math.min(width, height);
  const context = stage.getContext("2d");
  context.fillStyle = "#fff"; // behind what is transparent
  context.fillRect(0, 0, stage.width, stage.height);
  context.imageSmoothingEnabled = square > side; // an image as small as the network's shows its pixels
  context.drawImage(source, (width - square) / 2, (height - square) / 2, square, square, 0, 0, stage.width, stage.height);
  const bytes = pixels(source, width, height, side, channels);
  return look(at("invert").checked ? bytes.map((one) => 255 - one) : bytes);
}

async function open(file) {
  choose("pick");
  const own = chosen;
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    if (own === chosen) at("status").textContent = `${file.name} is no image that this browser can read: choose a PNG, JPEG or WebP`;
    return;
  }
  if (own !== chosen) return;
  at("invert").onchange = () => take(image, image.width, image.height);
  await take(image, image.width, image.height);
}

async function film() {
  choose("camera");
  const own = chosen;
  if (!navigator.mediaDevices) return refuse("browsers allow it on https and on localhost alone", "choose a photo");
  const video = make("video", { muted: true, playsInline: true });
  try {
    const filmed = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    const tracks = filmed.getTracks();
    if (own !== chosen) return tracks.forEach((track) => track.stop());
    stream = video.srcObject = filmed;
    tracks[0].onended = () => own === chosen && choose(""); // unplugged, or no longer allowed
    await video.play();
  } catch (error) {
    if (own === chosen) refuse(error.message ?? error, "allow it, or choose a photo");
    return;
  }
  while (own === chosen) {
    await take(video, video.videoWidth, video.videoHeight);
    await new Promise(requestAnimationFrame);
  }
}

function refuse(reason, remedy) {
  choose("");
  at("status").textContent = `The camera shows nothing (${reason}): ${remedy}`;
}

function pen() {
  const stage = at("stage");
  const point = (event) => [event.offsetX * stage.width / stage.clientWidth, event.offsetY * stage.height / stage.clientHeight];
  let from = null, pointer = null;
  stage.onpointerdown = (event) => {
    if (mode !== "draw" || event.button || !event.isPrimary) return;
    if (covered) clean();
    at("hint").textContent = "";
    stage.setPointerCapture(event.pointerId);
    [from, pointer] = [point(event), event.pointerId];
    stage.onpointermove(event);
  };
  stage.onpointermove = (event) => {
    if (!from || event.pointerId !== pointer) return;
    if (!event.buttons) return lift(event); // let go where the page could not see it
    const context = stage.getContext("2d"), to = point(event);
    Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    from = to;
    const bytes = drawn(stage, about.cells, about.contract.image_size);
    if (bytes) look(bytes);
  };
  const lift = (event) => { if (event.pointerId === pointer) from = null; };
  stage.onpointerup = stage.onpointercancel = lift;
}

function clean() {
  choose("draw");
  forget();
  blank();
  at("hint").textContent = "draw here";
}

function offer() {
  const { in_channels: channels, image_size: side, classes } = about.contract;
  at("offered").append(...about.offered.map(({ pixels: text, label }) => {
    const bytes = offered(text, side, channels), canvas = make("canvas"), name = `test image: ${classes[label]}`;
    const button = make("button", { type: "button", title: name });
    button.setAttribute("aria-label", name);
    show(canvas, bytes, side);
    button.append(canvas);
    button.onclick = () => {
      choose(draws() ? "draw" : "pick");
      covered = true;
      const context = at("stage").getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(canvas, 0, 0, at("stage").width, at("stage").height);
      press(button, true);
      look(bytes);
    };
    return button;
  }));
}

function describe() {
  const { contract, costs, parity, images, top1 } = about;
  at("name").textContent = about.title;
  const known = top1 === null ? "" : `, ${top1.toFixed(2)}% of its test images right`;
  at("about").textContent = `Trained on ${contract.data}${known}. ${contract.classes.length} classes.`;
  at("images").textContent = number.format(images);
  const others = costs.products.filter((one) => !one.counted && one.arrives !== "real").length;
  at("uncounted").textContent = others ? `Of ${others} products the mean stands for this image's own count.` : "";
  const same = `${parity.same_class.toFixed(2)}% of ${number.format(parity.images)} test images in the same class`;
  at("proof").textContent = `The network is the one that PyTorch trained: ${same} there and in ONNX Runtime`
    + (parity.holds ? "." : ", but its spikes DIFFER by more than rounding.");
  at("sources").append(...Object.values(costs.sources).map((text) => make("li", { textContent: text })));
  at("conventions").append(...Object.entries(costs.titles).map(([name, title]) => make("button", {
    type: "button", textContent: name, title, onclick: () => { convention = name; showNumbers(); },
  })));
}

async function start() {
  about = await (await fetch("demo.json")).json();
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { wasm: new URL("ort.wasm", import.meta.url).href };
  session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  describe();
  offer();
  pen();
  blank();
  const photos = [1, 3].includes(about.contract.in_channels); // not the channels of events
  at("pick").hidden = at("camera").hidden = !photos;
  at("draw").hidden = at("clear").hidden = at("inverted").hidden = !draws();
  at("draw").onclick = at("clear").onclick = clean;
  at("pick").onclick = () => at("file").click();
  at("file").onchange = () => { if (at("file").files[0]) open(at("file").files[0]); at("file").value = ""; };
  at("camera").onclick = () => (stream ? choose("") : film());
  document.ondragover = (event) => { event.preventDefault(); if (photos) at("place").classList.add("dropping"); };
  document.ondragleave = () => at("place").classList.remove("dropping");
  document.ondrop = (event) => {
    event.preventDefault();
    at("place").classList.remove("dropping");
    if (photos && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  };
  await look(offered(about.offered[0].pixels, about.contract.image_size, about.contract.in_channels)); // to warm up
  at("offered").firstChild.click();
}

function fail(error) {
  choose(""); // a camera is off then
  at("status").textContent = `Something went wrong: ${error?.message ?? error}`;
}
addEventListener("error", ({ error, message }) => fail(error ?? message));
addEventListener("unhandledrejection", ({ reason }) => fail(reason));
start().catch((error) => { at("status").textContent = `The page could not be loaded: ${error.message}`; });
