// The TensorFlow Playground's spiral, the part of it that has labels, and minibatches.

export const EXTENT = 6; // the plane shown is [-6, 6]^2
const TURNS = 1.75;
const RADIUS = 5;

/** A function that draws from U(0, 1), the same for the same seed (mulberry32). */
export function generator(seed) {
  let state = (seed * 0x9e3779b1) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Points [2n, 2] and labels [2n], class 0 first: (r sin t, r cos t) + noise U(-1, 1). */
export function makeSpiral(pointsPerClass, noise, uniform) {
  const points = new Float64Array(4 * pointsPerClass);
  const labels = new Uint8Array(2 * pointsPerClass).fill(1, pointsPerClass);
  for (let i = 0; i < 2 * pointsPerClass; i++) {
    const share = (i % pointsPerClass) / pointsPerClass;
    const angle = TURNS * 2 * Math.PI * share + labels[i] * Math.PI;
    points[2 * i] = RADIUS * share * Math.sin(angle) + noise * (2 * uniform() - 1);
    points[2 * i + 1] = RADIUS * share * Math.cos(angle) + noise * (2 * uniform() - 1);
  }
  return { points, labels };
}

/** The numbers below n in random order. */
export function permutation(n, uniform) {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(uniform() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** Points [rows, 2] of [n, 2]. */
export function choose(points, rows) {
  const out = new Float64Array(2 * rows.length);
  for (let i = 0; i < out.length; i++) out[i] = points[2 * rows[i >> 1] + (i & 1)];
  return out;
}

/** One spiral, of which a random part of each class keeps its labels. */
export function splitSpiral(labeledPerClass, unlabeledPerClass, noise, uniform) {
  const total = labeledPerClass + unlabeledPerClass;
  const { points, labels } = makeSpiral(total, noise, uniform);
  const [known, others] = [[], []];
  for (const arm of [0, 1]) {
    const order = permutation(total, uniform).map((row) => arm * total + row);
    known.push(...order.subarray(0, labeledPerClass));
    others.push(...order.subarray(labeledPerClass));
  }
  return {
    labeled: choose(points, known),
    labels: Uint8Array.from(known, (row) => labels[row]),
    unlabeled: choose(points, others),
  };
}

/** A function that gives the next index batch; every epoch visits all items in new order. */
export function batches(size, of, uniform) {
  let left = [];
  return () => {
    while (left.length < size) left.push(...permutation(of, uniform));
    return left.splice(0, size);
  };
}
