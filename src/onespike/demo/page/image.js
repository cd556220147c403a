// From a drawing, a photo or a frame of the camera to the bytes that the network reads: (C, H, W), 0..255.

/** The pixels of a square image source of any size, as the network wants them: `side` pixels a side. */
export function pixels(source, width, height, side, channels) {
  const square = Math.min(width, height), canvas = new OffscreenCanvas(side, side);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // behind what is transparent
  context.fillRect(0, 0, side, side);
  let from = source, left = (width - square) / 2, top = (height - square) / 2, size = square;
  while (size >= 2 * side) { // some browsers look at four pixels for each that they draw: halve it first
    const half = new OffscreenCanvas(Math.round(size / 2), Math.round(size / 2));
    half.getContext("2d").drawImage(from, left, top, size, size, 0, 0, half.width, half.height);
    [from, left, top, size] = [half, 0, 0, half.width];
  }
  context.drawImage(from, left, top, size, size, 0, 0, side, side);
  return planes(context.getImageData(0, 0, side, side).data, side * side, channels);
}

function planes(rgba, count, channels) {
  const out = new Uint8Array(channels * count);
  for (let i = 0; i < count; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (channels === 1) out[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16; // grey, as Pillow weighs colours
    else [out[i], out[count + i], out[2 * count + i]] = [r, g, b];
  }
  return out;
}

/** A drawing, white on black, as the data set has its images: cut out and centred; in `cells` a side, then
    enlarged, or without `cells` with a border. */
export function drawn(canvas, cells, side) {
  const { width, height } = canvas;
  const rgba = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let i = 0; i < width * height; i++) {
    if (rgba[4 * i] < 64) continue;
    const x = i % width, y = (i - x) / width;
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  }
  if (right < 0) return null;
  const size = Math.max(right - left, bottom - top, width / 5) + 1; // a dot stays a dot
  const [x, y] = [(left + right + 1 - size) / 2, (top + bottom + 1 - size) / 2];
  if (!cells) {
    const margin = size / 5;
    const framed = new OffscreenCanvas(side, side), context = framed.getContext("2d");
    context.imageSmoothingQuality = "high";
    const scale = side / (size + 2 * margin);
    context.drawImage(canvas, left, top, right - left + 1, bottom - top + 1,
      (left - x + margin) * scale, (top - y + margin) * scale, (right - left + 1) * scale, (bottom - top + 1) * scale);
    return planes(context.getImageData(0, 0, side, side).data, side * side, 1);
  }
  const rough = new Float64Array(cells * cells), cell = size / cells;
  for (let row = 0; row < cells; row++) {
    for (let column = 0; column < cells; column++) {
      let sum = 0, all = 0;
      for (let v = Math.floor(y + row * cell); v < y + (row + 1) * cell; v++) {
        for (let u = Math.floor(x + column * cell); u < x + (column + 1) * cell; u++, all++) {
          if (u >= 0 && v >= 0 && u < width && v < height) sum += rgba[4 * (v * width + u)];
        }
      }
      rough[row * cells + column] = Math.round((sum / all / 255) * 16) * 255 / 16; // 17 greys
    }
  }
  return enlarged(rough, cells, side);
}

/** Cubic interpolation (a = -0.5), axis by axis, as the data set's images were enlarged. */
function enlarged(values, from, to) {
  const weights = Array.from({ length: to }, (_, i) => {
    const centre = ((i + 0.5) * from) / to, first = Math.max(0, Math.floor(centre - 2 + 0.5));
    const last = Math.min(from, Math.floor(centre + 2 + 0.5)), row = [];
    for (let j = first; j < last; j++) row.push([j, cubic(j - centre + 0.5)]);
    const sum = row.reduce((total, [, weight]) => total + weight, 0);
    return row.map(([j, weight]) => [j, weight / sum]);
  });
  const clamp = (x) => Math.min(255, Math.max(0, Math.round(x))), wide = new Float64Array(from * to);
  for (let y = 0; y < from; y++) {
    weights.forEach((row, x) => { wide[y * to + x] = clamp(row.reduce((sum, [j, w]) => sum + w * values[y * from + j], 0)); });
  }
  const out = new Uint8Array(to * to);
  weights.forEach((row, y) => {
    for (let x = 0; x < to; x++) out[y * to + x] = clamp(row.reduce((sum, [j, w]) => sum + w * wide[j * to + x], 0));
  });
  return out;
}

function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/** Show bytes (C, H, W) on a canvas, a point for each pixel. */
export function show(canvas, bytes, side) {
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d"), image = context.createImageData(side, side), count = side * side;
  for (let i = 0; i < count; i++) {
    const one = bytes.length === count ? [bytes[i], bytes[i], bytes[i]] : [bytes[i], bytes[count + i], bytes[2 * count + i]];
    image.data.set([...one, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

/** A test image of the page, bytes (H, W, C) in base 64, as (C, H, W). */
export function offered(text, side, channels) {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0)), out = new Uint8Array(bytes.length);
  bytes.forEach((value, i) => { out[(i % channels) * side * side + Math.floor(i / channels)] = value; });
  return out;
}
