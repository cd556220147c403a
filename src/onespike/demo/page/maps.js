// Spike maps: each channel of a layer as a tile, a point for each neuron; and the share of channels that fire at each place.

const TILE = 48, GAP = 1, ROWS = 2; // pixels of a tile, about; points between tiles; rows unless all are wanted

/** A new element with these properties. */
export const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

/** One layer's spikes as tiles: what has no map is laid out as a square. */
function tiles(tensor, axis, ahead) {
  const dims = tensor.dims.filter((size, i) => i !== axis || size !== 1), map = dims.length > 2;
  const last = dims.at(-1) ?? 1, width = map ? last : Math.ceil(Math.sqrt(last)), area = map ? dims.at(-2) * width : last;
  const height = Math.ceil(area / width), count = tensor.data.length / area;
  const several = dims.length > (map ? 3 : 1) ? `${dims[0]} ${ahead} × ` : "", each = several ? dims.slice(1) : dims;
  const shape = several + (map ? `${each.slice(0, -2).join(" × ")} channels of ${height}×${width}` : `${each.join(" × ")} neurons`);
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
  const top = Math.max(...sums, 1e-9);
  sums.forEach((share, point) => paint(point, share / top));
  context.putImageData(image, 0, 0);
}

/** Draw the tiles into the width that there is; the busiest channels if not all. Returns how many. */
function drawTiles(canvas, { data, width, height, area, count }, all, room) {
  const scale = Math.max(1, Math.round(TILE / Math.max(width, height)));
  const columns = Math.max(1, Math.min(count, Math.floor(room / scale / (width + GAP))));
  const fired = Array.from({ length: count }, (_, tile) => {
    let sum = 0;
    for (let i = 0; i < area; i++) if (data[tile * area + i] !== 0) sum++;
    return sum;
  });
  let chosen = Array.from(fired.keys());
  if (!all && count > ROWS * columns) chosen = chosen.sort((a, b) => fired[b] - fired[a]).slice(0, ROWS * columns);
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
export function drawLayers(place, layers, outputs, rates, all) {
  while (place.children.length < layers.length) {
    const one = make("div", { className: "layer" });
    one.append(make("p"), make("canvas"), make("canvas"));
    place.append(one);
  }
  const rate = new Map(rates);
  layers.forEach(({ path, output, axis, ahead }, i) => {
    const [text, mean, map] = place.children[i].children, shown = tiles(outputs[output], axis, ahead);
    mean.hidden = !shown.map;
    drawMean(mean, shown);
    const room = place.clientWidth - (shown.map ? mean.clientWidth + 16 : 0), count = drawTiles(map, shown, all, room);
    const few = count < shown.count ? `; the ${count} busiest` : "";
    text.replaceChildren(make("b", { textContent: path }), `${shown.shape}, ${(100 * rate.get(path)).toFixed(1)}% fired${few}`);
  });
}
