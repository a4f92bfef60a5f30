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

/** Memory for matrices that is used again: after `clear`, what was taken before is written over. */
function makeRoom() {
  let block = new Float64Array(0);
  let at = 0;
  return {
    clear: () => (at = 0),
    take(size) {
      if (at + size > block.length) [block, at] = [new Float64Array(2 * (at + size)), 0];
      return block.subarray(at, (at += size));
    },
  };
}

/** A net from its parameters, with averages as torch starts them. */
export function makeNet(parameters, width) {
  const running = Array.from({ length: HIDDEN }, () => ({
    mean: new Float64Array(width),
    variance: new Float64Array(width).fill(1),
  }));
  const gradient = new Float64Array(parameters.length);
  const slopes = parts(gradient, width);
  return { width, parameters, running, gradient, slopes, room: makeRoom(), ...parts(parameters, width) };
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

/**
 * Write the [n, m] sums over l < k of a[i, l] b[j, l], and the bias, to out and return it.
 *
 * [a, row, column] is a matrix whose element i, l is at i * row + l * column, so that transposed
 * ones need no copy.
 */
function product(out, [a, ar, ac], [b, br, bc], [n, m, k], bias = null) {
  const [full, wide] = [n - (n % 4), m - (m % 4)];
  const [ar2, ar3, br2, br3] = [2 * ar, 3 * ar, 2 * br, 3 * br];
  // Sixteen sums at a time, which makes training four times as fast.
  for (let j = 0; j < wide; j += 4) {
    let c0 = 0, c1 = 0, c2 = 0, c3 = 0;
    if (bias) [c0, c1, c2, c3] = [bias[j], bias[j + 1], bias[j + 2], bias[j + 3]];
    for (let i = 0; i < full; i += 4) {
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
      for (let l = 0, p = i * ar, q = j * br; l < k; l++, p += ac, q += bc) {
        const a0 = a[p], a1 = a[p + ar], a2 = a[p + ar2], a3 = a[p + ar3];
        const b0 = b[q], b1 = b[q + br], b2 = b[q + br2], b3 = b[q + br3];
        s00 += a0 * b0; s01 += a0 * b1; s02 += a0 * b2; s03 += a0 * b3;
        s10 += a1 * b0; s11 += a1 * b1; s12 += a1 * b2; s13 += a1 * b3;
        s20 += a2 * b0; s21 += a2 * b1; s22 += a2 * b2; s23 += a2 * b3;
        s30 += a3 * b0; s31 += a3 * b1; s32 += a3 * b2; s33 += a3 * b3;
      }
      let o = i * m + j;
      out[o] = s00 + c0; out[o + 1] = s01 + c1; out[o + 2] = s02 + c2; out[o + 3] = s03 + c3;
      o += m;
      out[o] = s10 + c0; out[o + 1] = s11 + c1; out[o + 2] = s12 + c2; out[o + 3] = s13 + c3;
      o += m;
      out[o] = s20 + c0; out[o + 1] = s21 + c1; out[o + 2] = s22 + c2; out[o + 3] = s23 + c3;
      o += m;
      out[o] = s30 + c0; out[o + 1] = s31 + c1; out[o + 2] = s32 + c2; out[o + 3] = s33 + c3;
    }
  }
  for (let i = 0; i < n; i++)
    for (let j = i < full ? wide : 0; j < m; j++) {
      let sum = 0;
      for (let l = 0, p = i * ar, q = j * br; l < k; l++, p += ac, q += bc) sum += a[p] * b[q];
      out[i * m + j] = bias ? sum + bias[j] : sum;
    }
  return out;
}

function linear(room, x, { weight, bias }) {
  const outputs = bias.length;
  const inputs = weight.length / outputs;
  const rows = x.length / inputs;
  const sizes = [rows, outputs, inputs];
  return product(room.take(rows * outputs), [x, inputs, 1], [weight, inputs, 1], sizes, bias);
}

/** Mean and biased variance of each column: equation 1's statistics. */
export function moments(z, width) {
  const rows = z.length / width;
  const mean = new Float64Array(width);
  const variance = new Float64Array(width);
  for (let j = 0; j < width; j++) {
    let [sum, squares] = [0, 0];
    for (let i = j; i < z.length; i += width) sum += z[i];
    const middle = sum / rows;
    for (let i = j; i < z.length; i += width) squares += (z[i] - middle) * (z[i] - middle);
    mean[j] = middle;
    variance[j] = squares / rows;
  }
  return { mean, variance, rows };
}

const inverseDeviation = (variance) => 1 / Math.sqrt(variance + EPS);

/** Equation 4 and ReLU; equation 1 where the reference is the rows' own moments. */
function normalizeAndRectify(room, z, { mean, variance }, { gamma, beta }) {
  const width = mean.length;
  const out = room.take(z.length);
  for (let j = 0; j < width; j++) {
    const [middle, scale, shift] = [mean[j], inverseDeviation(variance[j]) * gamma[j], beta[j]];
    for (let i = j; i < z.length; i += width) {
      const y = (z[i] - middle) * scale + shift;
      out[i] = 0.5 * (y + Math.abs(y)); // ReLU without a branch, which is as often wrong as right
    }
  }
  return out;
}

/**
 * Points [n, 2] to logits [n, 2]; `reference(z, layer)` says what normalizes a layer's rows.
 *
 * The trace has what each layer saw; with fewer layers than there are it ends early, logits too.
 * Both are written over by the net's next pass.
 */
export function forward(net, points, reference, layers = HIDDEN) {
  const { room, last } = net;
  const trace = [];
  let x = points;
  room.clear();
  for (let layer = 0; layer < layers; layer++) {
    const block = net.blocks[layer];
    const z = linear(room, x, block);
    const moments = reference(z, layer);
    const y = normalizeAndRectify(room, z, moments, block);
    trace.push({ x, z, moments, y });
    x = y;
  }
  return { trace, x, logits: layers < HIDDEN ? null : linear(room, x, last) };
}

/** Logits of points where constants normalize: a few points at a time stay in the cache. */
export function logitsBy(constants, net, points) {
  const out = new Float64Array(points.length);
  for (let at = 0; at < out.length; at += 128)
    out.set(forward(net, points.subarray(at, at + 128), (_, layer) => constants[layer]).logits, at);
  return out;
}

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
 * The gradient of a normalization's input, written over that of the output of its ReLU, and those of
 * gamma and beta, for the rows [rows, width] of `g`.
 *
 * With `own` moments of these rows it is batch normalization's, whatever the reference: the rows'
 * mean and deviation take their share out. Otherwise the reference is a constant: the literal text.
 */
function normalizeBackward(g, { z, y, moments: reference }, gamma, own, into) {
  const width = gamma.length;
  const { mean } = own ?? reference;
  for (let j = 0; j < width; j++) {
    const middle = mean[j];
    let [sum, slope] = [0, 0]; // of g, and of g (z - mean)
    for (let i = j; i < g.length; i += width) {
      g[i] *= Number(y[i] > 0);
      sum += g[i];
      slope += g[i] * (z[i] - middle);
    }
    const inverse = inverseDeviation(reference.variance[j]);
    into.beta[j] = sum;
    into.gamma[j] = (slope + (middle - reference.mean[j]) * sum) * inverse;
    const scale = gamma[j] * inverse;
    const shift = own ? sum / own.rows : 0;
    const tilt = own ? slope / (own.rows * (own.variance[j] + EPS)) : 0;
    for (let i = j; i < g.length; i += width) g[i] = scale * (g[i] - shift - (z[i] - middle) * tilt);
  }
}

/** The gradient of all parameters, flat, from that of the logits of the first rows. */
function backward(net, pass, logitGradient, corrected) {
  const { width, room, slopes } = net;
  const rows = logitGradient.length / 2;
  /** Those of weight and bias; returns that of the input where it is asked for. */
  const linearBackward = (g, x, { weight }, into, further) => {
    const outputs = into.bias.length;
    const inputs = weight.length / outputs;
    into.bias.fill(0);
    for (let i = 0; i < g.length; ) for (let j = 0; j < outputs; j++) into.bias[j] += g[i++];
    product(into.weight, [g, 1, outputs], [x, 1, inputs], [outputs, inputs, rows]);
    if (!further) return null;
    const out = room.take(rows * inputs);
    return product(out, [g, outputs, 1], [weight, 1, inputs], [rows, inputs, outputs]);
  };
  let g = linearBackward(logitGradient, pass.x, net.last, slopes.last, true);
  for (let layer = HIDDEN - 1; layer >= 0; layer--) {
    const seen = pass.trace[layer];
    const [block, into] = [net.blocks[layer], slopes.blocks[layer]];
    const itself = seen.moments.rows === rows; // no other rows were in the reference
    const own = itself ? seen.moments : moments(seen.z.subarray(0, rows * width), width);
    normalizeBackward(g, seen, block.gamma, corrected ? own : null, into);
    g = linearBackward(g, seen.x, block, into, layer > 0);
  }
  return net.gradient;
}

/** Equations 2 and 3 with torch's unbiased variance: averages after one batch. */
function movingAverage(running, { mean, variance, rows }) {
  const move = (from, to, factor) => from.map((v, j) => v + MOMENTUM * (factor * to[j] - v));
  return {
    mean: move(running.mean, mean, 1),
    variance: move(running.variance, variance, rows / (rows - 1)),
  };
}

/**
 * One training step without the optimizer's: loss, gradient, statistics and averages after it; the
 * gradient is written over by the net's next step.
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
  const { first, second } = state;
  state.step += 1;
  const size = rate / (1 - b1 ** state.step);
  const root = 1 / Math.sqrt(1 - b2 ** state.step);
  for (let i = 0; i < parameters.length; i++) {
    const g = gradient[i];
    const m = (first[i] += (1 - b1) * (g - first[i]));
    const v = (second[i] = b2 * second[i] + (1 - b2) * g * g);
    parameters[i] -= (size * m) / (Math.sqrt(v) * root + tiny);
  }
}

/** The state of Adam for so many parameters. */
export const adamState = (size) => ({
  step: 0,
  first: new Float64Array(size),
  second: new Float64Array(size),
});
