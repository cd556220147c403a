// Spike maps: each channel of a layer as a tile, a point for each neuron; and the share of channels that fire at each place.

import { fired } from "./counts.js";

const TILE = 48, GAP = 1, ROWS = 2; // pixels of a tile, about; points between tiles; rows unless all are wanted

/** A new element with these properties. */
export const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

/** One layer's spikes as tiles: what has no map is laid out as a square. `axis` is that of images, behind what is `ahead`. */
export function tiles(tensor, axis, ahead) {
  const several = tensor.dims.slice(0, axis + 1).filter((size) => size !== 1), dims = tensor.dims.slice(axis + 1);
  const map = dims.length > 2, last = dims.at(-1) ?? 1, width = map ? last : Math.ceil(Math.sqrt(last));
  const area = map ? dims.at(-2) * width : last, height = Math.ceil(area / width), count = tensor.data.length / area;
  const parts = several.map((size) => `${size} ${ahead}`);
  if (dims.length > 1) parts.push(map ? `${dims.slice(0, -2).join(" × ")} channels of ${height}×${width}` : `${dims[0]} tokens`);
  const shape = [...parts, ...(map ? [] : [`${last} neurons`])].join(" × ");
  return { data: tensor.data, width, height, area, count, shape, map };
}

function colours() { // #rrggbb, as the style sheet has them
  const style = getComputedStyle(document.documentElement);
  return ["--track", "--spike", "--negative"].map((name) => {
    const whole = parseInt(style.getPropertyValue(name).trim().slice(1), 16);
    return [whole >> 16, (whole >> 8) & 255, whole & 255];
  });
}

/** Paint shares 0..1 (below 0 in the colour of negative spikes) at points of an image. */
function painter(image) {
  const [off, on, negative] = colours();
  return (point, share) => {
    const to = share < 0 ? negative : on, part = Math.min(1, Math.abs(share));
    for (let i = 0; i < 3; i++) image.data[4 * point + i] = off[i] + (to[i] - off[i]) * part;
    image.data[4 * point + 3] = 255;
  };
}

function drawMean(canvas, { data, width, height, area, count }) {
  const sums = new Float64Array(width * height);
  for (let i = 0; i < data.length; i++) if (data[i] !== 0) sums[i % area] += 1 / count;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height), paint = painter(image);
  const top = sums.reduce((most, share) => Math.max(most, share), 1e-9); // too many for arguments
  sums.forEach((share, point) => paint(point, share / top));
  context.putImageData(image, 0, 0);
}

/** Draw the tiles into the width that there is; the busiest channels if not all. Returns how many. */
function drawTiles(canvas, { data, width, height, area, count }, all, room) {
  const scale = Math.max(1, Math.round(TILE / Math.max(width, height)));
  const columns = Math.max(1, Math.min(count, Math.floor(room / scale / (width + GAP))));
  const busy = Array.from({ length: count }, (_, tile) => fired(data.subarray(tile * area, (tile + 1) * area)));
  let chosen = Array.from(busy.keys());
  if (!all && count > ROWS * columns) chosen = chosen.sort((a, b) => busy[b] - busy[a]).slice(0, ROWS * columns);
  const across = columns * (width + GAP) - GAP, down = Math.ceil(chosen.length / columns) * (height + GAP) - GAP;
  Object.assign(canvas, { width: across, height: down });
  canvas.style.width = `${across * scale}px`;
  const context = canvas.getContext("2d"), image = context.createImageData(across, down), paint = painter(image);
  let most = 1; // values that are no spikes, such as a ReLU's, are shown beside the largest
  for (let i = 0; i < data.length; i++) most = Math.max(most, Math.abs(data[i]));
  chosen.forEach((tile, place) => {
    const left = (place % columns) * (width + GAP), top = Math.floor(place / columns) * (height + GAP);
    for (let i = 0; i < area; i++) {
      paint((top + Math.floor(i / width)) * across + left + (i % width), data[tile * area + i] / most);
    }
  });
  context.putImageData(image, 0, 0);
  return chosen.length;
}

/** Draw all layers into a place of the page; the parts are made once. */
export function drawLayers(place, layers, outputs, all) {
  while (place.children.length < layers.length) {
    const one = make("div", { className: "layer" });
    one.append(make("p"), make("canvas"), make("canvas"));
    place.append(one);
  }
  layers.forEach(({ name, output, axis, ahead }, i) => {
    const [text, mean, map] = place.children[i].children, shown = tiles(outputs[output], axis, ahead);
    const rate = fired(shown.data) / shown.data.length;
    mean.hidden = !shown.map;
    if (shown.map) drawMean(mean, shown);
    const room = place.clientWidth - (shown.map ? mean.clientWidth + 16 : 0), count = drawTiles(map, shown, all, room);
    const few = count < shown.count ? `; the ${count} busiest` : "";
    text.replaceChildren(make("b", { textContent: name }), `${shown.shape}, ${(100 * rate).toFixed(1)}% fired${few}`);
  });
}
