// The five-layer net of section 3.3 with BN or UBN: forward, backward, averages, Adam.
//
// Pure functions in float64, the same numbers as ubnlib's, which a test compares step by step.
// A matrix is a Float64Array row by row; its number of columns follows from what it meets.

export const EPS = 1e-5; // as nn.BatchNorm1d
const MOMENTUM = 0.1;
const HIDDEN = 4; // layers with normalization and ReLU; the fifth gives two logits

/** The gradient through the statistics, and what normalizes the labeled rows: ubnlib's switches. */
const READINGS = {
  bn: { gradient: "corrected", source: "batch" },
  corrected: { gradient: "corrected", source: "batch" },
  literal: { gradient: "none", source: "batch" },
  joint: { gradient: "all", source: "batch" },
  averages: { gradient: "corrected", source: "running" },
};

/** Name the parts of a flat array of parameters, in the order of torch's `parameters()`. */
export function parts(flat, width) {
  let at = 0;
  const take = (size) => flat.subarray(at, (at += size));
  const block = (inputs) => ({
    weight: take(width * inputs), // [width, inputs]
    bias: take(width),
    gamma: take(width),
    beta: take(width),
  });
  const blocks = Array.from({ length: HIDDEN }, (_, layer) => block(layer ? width : 2));
  return { blocks, last: { weight: take(2 * width), bias: take(2) } };
}

/** How many parameters a net has. */
export const sizeOf = (width) => 2 * width + 3 * width * width + 12 * width + 2 * width + 2;

/** A net from its parameters, with averages as torch starts them. */
export function makeNet(parameters, width) {
  const running = Array.from({ length: HIDDEN }, () => ({
    mean: new Float64Array(width),
    variance: new Float64Array(width).fill(1),
  }));
  return { width, parameters, running, ...parts(parameters, width) };
}

/** Draw parameters as torch's nn.Linear and nn.BatchNorm1d do, from a function of U(0, 1). */
export function drawParameters(width, uniform) {
  const flat = new Float64Array(sizeOf(width));
  const { blocks, last } = parts(flat, width);
  for (const layer of [...blocks, last]) {
    const bound = 1 / Math.sqrt(layer.weight.length / layer.bias.length);
    for (const values of [layer.weight, layer.bias])
      for (let i = 0; i < values.length; i++) values[i] = bound * (2 * uniform() - 1);
    layer.gamma?.fill(1);
  }
  return flat;
}

/** Return a bᵀ + bias, [n, m], for a [n, k] and b [m, k]. */
function product(a, b, m, k, bias = null) {
  const n = a.length / k;
  const out = new Float64Array(n * m);
  const [full, wide] = [n - (n % 4), m - (m % 4)];
  // Sixteen sums at a time, which makes training four times as fast.
  for (let j = 0; j < wide; j += 4)
    for (let i = 0; i < full; i += 4) {
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
      const end = i * k + k;
      for (let p = i * k, q = j * k; p < end; p++, q++) {
        const a0 = a[p], a1 = a[p + k], a2 = a[p + 2 * k], a3 = a[p + 3 * k];
        const b0 = b[q], b1 = b[q + k], b2 = b[q + 2 * k], b3 = b[q + 3 * k];
        s00 += a0 * b0; s01 += a0 * b1; s02 += a0 * b2; s03 += a0 * b3;
        s10 += a1 * b0; s11 += a1 * b1; s12 += a1 * b2; s13 += a1 * b3;
        s20 += a2 * b0; s21 += a2 * b1; s22 += a2 * b2; s23 += a2 * b3;
        s30 += a3 * b0; s31 += a3 * b1; s32 += a3 * b2; s33 += a3 * b3;
      }
      const o = i * m + j;
      out[o] = s00; out[o + 1] = s01; out[o + 2] = s02; out[o + 3] = s03;
      out[o + m] = s10; out[o + m + 1] = s11; out[o + m + 2] = s12; out[o + m + 3] = s13;
      out[o + 2 * m] = s20; out[o + 2 * m + 1] = s21; out[o + 2 * m + 2] = s22; out[o + 2 * m + 3] = s23;
      out[o + 3 * m] = s30; out[o + 3 * m + 1] = s31; out[o + 3 * m + 2] = s32; out[o + 3 * m + 3] = s33;
    }
  for (let i = 0; i < n; i++)
    for (let j = i < full ? wide : 0; j < m; j++)
      for (let l = 0; l < k; l++) out[i * m + j] += a[i * k + l] * b[j * k + l];
  if (bias) for (let i = 0; i < out.length; ) for (let j = 0; j < m; j++) out[i++] += bias[j];
  return out;
}

function transposed(a, columns) {
  const rows = a.length / columns;
  const out = new Float64Array(a.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) out[j * rows + i] = a[i * columns + j];
  return out;
}

const linear = (x, { weight, bias }) =>
  product(x, weight, bias.length, weight.length / bias.length, bias);

function columnSums(a, columns) {
  const out = new Float64Array(columns);
  for (let i = 0; i < a.length; )
    for (let j = 0; j < columns; j++) out[j] += a[i++];
  return out;
}

/** Mean and biased variance of each column: equation 1's statistics. */
export function moments(z, width) {
  const rows = z.length / width;
  const mean = columnSums(z, width).map((sum) => sum / rows);
  const variance = new Float64Array(width);
  for (let i = 0; i < z.length; )
    for (let j = 0; j < width; j++) variance[j] += (z[i++] - mean[j]) ** 2;
  for (let j = 0; j < width; j++) variance[j] /= rows;
  return { mean, variance, rows };
}

const inverseDeviation = (variance) => variance.map((v) => 1 / Math.sqrt(v + EPS));

/** Equation 4 and ReLU; equation 1 where the reference is the rows' own moments. */
function normalizeAndRectify(z, { mean, variance }, { gamma, beta }) {
  const width = mean.length;
  const scale = inverseDeviation(variance).map((v, j) => v * gamma[j]);
  const out = new Float64Array(z.length);
  for (let i = 0; i < z.length; )
    for (let j = 0; j < width; j++, i++) {
      const y = (z[i] - mean[j]) * scale[j] + beta[j];
      out[i] = y > 0 ? y : y !== y ? y : 0; // what is not a number stays visible
    }
  return out;
}

/**
 * Points [n, 2] to logits [n, 2]; `reference(z, layer)` says what normalizes a layer's rows.
 *
 * The trace has what each layer saw; with fewer layers than there are it ends early, logits too.
 */
export function forward(net, points, reference, layers = HIDDEN) {
  const trace = [];
  let x = points;
  for (const [layer, block] of net.blocks.slice(0, layers).entries()) {
    const z = linear(x, block);
    const moments = reference(z, layer);
    const y = normalizeAndRectify(z, moments, block);
    trace.push({ x, z, moments, y });
    x = y;
  }
  return { trace, x, logits: layers < HIDDEN ? null : linear(x, net.last) };
}

/** In evaluation the averages normalize. */
export const evaluate = (net, points) =>
  forward(net, points, (_, layer) => net.running[layer]).logits;

/** Mean cross-entropy of the first rows, one for each label, and its gradient at all logits. */
export function crossEntropy(logits, labels) {
  const rows = labels.length;
  const gradient = new Float64Array(logits.length);
  let loss = 0;
  for (let i = 0; i < rows; i++) {
    const [a, b] = [logits[2 * i], logits[2 * i + 1]];
    const top = Math.max(a, b);
    const [p, q] = [Math.exp(a - top), Math.exp(b - top)];
    loss += (Math.log(p + q) + top - (labels[i] ? b : a)) / rows;
    gradient[2 * i] = (p / (p + q) - (labels[i] ? 0 : 1)) / rows;
    gradient[2 * i + 1] = (q / (p + q) - (labels[i] ? 1 : 0)) / rows;
  }
  return { loss, gradient };
}

/**
 * The gradient of a normalization's input, gamma and beta from that of its output, for its rows.
 *
 * With `corrected` it is batch normalization's, whatever the reference: the rows' own mean and
 * deviation take their share out. Otherwise the reference is a constant: the literal text.
 */
function normalizeBackward(g, z, reference, gamma, corrected) {
  const width = gamma.length;
  const rows = z.length / width;
  const own = corrected ? moments(z, width) : null;
  const { mean } = own ?? reference;
  const invstd = inverseDeviation(reference.variance);
  const beta = columnSums(g, width);
  const slope = new Float64Array(width); // sum of g (z - mean)
  for (let i = 0; i < z.length; )
    for (let j = 0; j < width; j++, i++) slope[j] += g[i] * (z[i] - mean[j]);
  const shift = new Float64Array(width);
  const tilt = new Float64Array(width);
  for (let j = 0; own && j < width; j++) {
    shift[j] = beta[j] / rows;
    tilt[j] = slope[j] / (rows * (own.variance[j] + EPS));
  }
  const out = new Float64Array(z.length);
  const scale = gamma.map((v, j) => v * invstd[j]);
  for (let i = 0; i < z.length; )
    for (let j = 0; j < width; j++, i++)
      out[i] = scale[j] * (g[i] - shift[j] - (z[i] - mean[j]) * tilt[j]);
  const apart = (j) => (mean[j] - reference.mean[j]) * beta[j];
  return { z: out, gamma: slope.map((v, j) => (v + apart(j)) * invstd[j]), beta };
}

/** The gradient of all parameters, flat, from that of the logits of the first rows. */
function backward(net, pass, logitGradient, corrected) {
  const { width } = net;
  const rows = logitGradient.length / 2;
  const flat = new Float64Array(net.parameters.length);
  const to = parts(flat, width);
  const first = (a, columns) => a.subarray(0, rows * columns);
  const linearBackward = (g, x, from, into) => {
    const inputs = from.weight.length / from.bias.length;
    into.bias.set(columnSums(g, from.bias.length));
    const gT = transposed(g, from.bias.length);
    into.weight.set(product(gT, transposed(first(x, inputs), inputs), inputs, rows));
    return product(g, transposed(from.weight, inputs), inputs, from.bias.length);
  };
  let g = linearBackward(logitGradient, pass.x, net.last, to.last);
  for (let layer = HIDDEN - 1; layer >= 0; layer--) {
    const { x, z, moments, y } = pass.trace[layer];
    for (let i = 0; i < g.length; i++) if (!(y[i] > 0)) g[i] = 0;
    const { gamma } = net.blocks[layer];
    const through = normalizeBackward(g, first(z, width), moments, gamma, corrected);
    to.blocks[layer].gamma.set(through.gamma);
    to.blocks[layer].beta.set(through.beta);
    g = linearBackward(through.z, x, net.blocks[layer], to.blocks[layer]);
  }
  return flat;
}

/** Equations 2 and 3 with torch's unbiased variance: averages after one batch. */
function movingAverage(running, { mean, variance, rows }) {
  const move = (from, to) => from.map((v, j) => v + MOMENTUM * (to(j) - v));
  return {
    mean: move(running.mean, (j) => mean[j]),
    variance: move(running.variance, (j) => (variance[j] * rows) / (rows - 1)),
  };
}

/**
 * One training step without the optimizer's: loss, gradient, statistics and averages after it.
 *
 * Labeled points [n, 2] and their labels [n], unlabeled points [m, 2], of which BN takes none, and
 * without any of which UBN is BN. The
 * labeled rows of step 1 have the values that step 2 would compute again, unless the averages
 * normalize: so one pass serves for both.
 */
export function trainingStep(net, reading, labeled, labels, unlabeled) {
  const { gradient, source } = unlabeled.length ? READINGS[reading] : READINGS.bn;
  const points = reading === "bn" ? labeled : join(labeled, unlabeled);
  let pass = forward(net, points, (z) => moments(z, net.width));
  const statistics = pass.trace.map((layer) => layer.moments);
  const running = statistics.map((batch, layer) => movingAverage(net.running[layer], batch));
  if (source === "running") pass = forward(net, labeled, (_, layer) => running[layer]);
  const { loss, gradient: atLogits } = crossEntropy(pass.logits, labels);
  const carrying = gradient === "all" ? atLogits : atLogits.subarray(0, 2 * labels.length);
  const slopes = backward(net, pass, carrying, gradient !== "none");
  return { loss, gradient: slopes, statistics, running };
}

/** The rows of two matrices, one below the other. */
export function join(a, b) {
  const out = new Float64Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}

/** One step of Adam with torch's defaults; moves the parameters and the optimizer's state. */
export function adam(state, parameters, gradient, rate) {
  const [b1, b2, tiny] = [0.9, 0.999, 1e-8];
  state.step += 1;
  const size = rate / (1 - b1 ** state.step);
  const root = Math.sqrt(1 - b2 ** state.step);
  for (let i = 0; i < parameters.length; i++) {
    const g = gradient[i];
    const m = (state.first[i] += (1 - b1) * (g - state.first[i]));
    const v = (state.second[i] = b2 * state.second[i] + (1 - b2) * g * g);
    parameters[i] -= (size * m) / (Math.sqrt(v) / root + tiny);
  }
}

/** The state of Adam for so many parameters. */
export const adamState = (size) => ({
  step: 0,
  first: new Float64Array(size),
  second: new Float64Array(size),
});
