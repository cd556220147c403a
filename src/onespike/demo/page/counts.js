// Spikes and synaptic operations of one image, from what arrives at the layers; energy from these. The audit's rules: an
// arriving value that is not 0 is one spike, or as many as it holds steps, and causes an operation for each weight it meets.

/** What one product did: from the graph's outputs where they show it, else the audit's mean over test images. */
export function count(product, outputs) {
  const { counted, mean } = product;
  if (!counted) return { spikes: mean.spikes, operations: mean.operations, own: false };
  const { each, rows = [1], columns = [1], step, outputs: names } = counted;
  const graded = product.arrives === "graded", height = rows.length, width = columns.length;
  let spikes = 0, operations = 0;
  for (const name of names) {
    const values = outputs[name].data;
    for (let i = 0; i < values.length; i++) {
      if (values[i] === 0) continue;
      const times = graded ? Math.abs(values[i]) / step : 1;
      spikes += times;
      operations += times * rows[Math.floor(i / width) % height] * columns[i % width];
    }
  }
  return { spikes, operations: operations * each, own: true };
}

/** Synaptic operations of all products: multiply-accumulates on real values are none. */
export function synaptic(products, counts) {
  return products.reduce((sum, one, i) => sum + (one.arrives === "real" ? 0 : counts[i].operations), 0);
}

/** Energy in joule by a convention, of counts such as `count` makes. */
export function energy(costs, counts, convention) {
  return costs.products.reduce((sum, product, i) => {
    const { constant, spike, operation } = product.energy[convention];
    return sum + constant + spike * counts[i].spikes + operation * counts[i].operations;
  }, costs.rest[convention]);
}

/** Energy for a person: three digits, and the unit that these have. */
export function joule(energy) {
  const rounded = Number(energy.toPrecision(3));
  const units = [[1, "J"], [1e3, "mJ"], [1e6, "µJ"], [1e9, "nJ"]];
  const [scale, unit] = units.find(([scale]) => rounded * scale >= 1) ?? units.at(-1);
  return `${(rounded * scale).toPrecision(3)} ${unit}`;
}

/** How many values are not 0. */
export const fired = (values) => values.reduce((sum, one) => sum + (one !== 0), 0);

/** Spikes per neuron, of all calls of each layer of neurons: [[path, rate], ...] in order. */
export function rates(layers, outputs) {
  const sums = new Map();
  for (const { path, output } of layers) {
    const values = outputs[output].data, sum = sums.get(path) ?? [0, 0];
    sums.set(path, [sum[0] + fired(values), sum[1] + values.length]);
  }
  return [...sums].map(([path, [spikes, all]]) => [path, spikes / all]);
}

export function softmax(logits) {
  const top = Math.max(...logits), powers = Array.from(logits, (one) => Math.exp(one - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((one) => one / sum);
}
