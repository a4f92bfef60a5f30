// One run: two nets that start alike and see the same labeled batches, and what is seen of them.

import {
  EPS, adam, adamState, drawParameters, forward, join, logitsBy, makeNet, moments, trainingStep,
} from "./net.js";
import {
  EXTENT, batches, choose, generator, makeSpiral, permutation, splitSpiral,
} from "./spiral.js";

export const UNLABELED_PER_CLASS = 200;
const WIDTH = 64;
const TEST_PER_CLASS = 250;
const BATCHES_SHOWN = 12; // dots of the statistics
const RESAMPLED = 8; // predictions behind the uncertainty
const CURVE_EVERY = 50; // steps between two accuracies

/** Data and nets of a run; the first net has BN, the second the reading of UBN. */
export function startRun(settings) {
  const { seed, noise, labels, reading } = settings;
  const data = splitSpiral(labels, UNLABELED_PER_CLASS, noise, generator(seed));
  const pool = settings.rows === "labeled" ? data.labeled : data.unlabeled;
  const rows = Math.min(settings.batch, data.labels.length);
  const others = Math.min(settings.unlabeled, pool.length / 2);
  const drawn = drawParameters(WIDTH, generator(seed + 0.25));
  const learner = (kind) => ({
    kind,
    net: makeNet(drawn.slice(), WIDTH),
    optimizer: adamState(drawn.length),
    curve: [], // of step and accuracy
    worst: 0, // the largest loss so far
    stopped: 0, // the step at which its loss was not finite
  });
  const run = {
    settings,
    data,
    pool,
    rows,
    others,
    test: makeSpiral(TEST_PER_CLASS, noise, generator(seed + 0.5)),
    nextLabeled: batches(rows, data.labels.length, generator(seed + 0.75)),
    nextUnlabeled: batches(others, pool.length / 2, generator(seed + 0.875)),
    learners: [learner("bn"), learner(reading)],
    step: 0,
  };
  noteAccuracy(run);
  return run;
}

/** Train both nets on the next batch; a net whose loss is not finite stops. */
export function advance(run) {
  const at = run.nextLabeled();
  const labeled = choose(run.data.labeled, at);
  const labels = Uint8Array.from(at, (row) => run.data.labels[row]);
  const unlabeled = choose(run.pool, run.nextUnlabeled());
  run.step += 1;
  for (const learner of run.learners) {
    if (learner.stopped) continue;
    const { net, optimizer, kind } = learner;
    const { loss, gradient, running } = trainingStep(net, kind, labeled, labels, unlabeled);
    if (!Number.isFinite(loss)) {
      learner.stopped = run.step;
      continue;
    }
    learner.worst = Math.max(learner.worst, loss);
    net.running = running;
    adam(optimizer, net.parameters, gradient, run.settings.rate);
  }
  if (run.step % CURVE_EVERY === 0) noteAccuracy(run);
}

function noteAccuracy(run) {
  for (const { net, curve } of run.learners) curve.push([run.step, accuracyOf(run, net)]);
}

/** The share of test points that a net has right, in evaluation. */
function accuracyOf({ test: { points, labels } }, net) {
  const logits = logitsBy(net.running, net, points);
  let right = 0; // what is not a number is not right
  for (let i = 0; i < labels.length; i++)
    right += labels[i] ? logits[2 * i + 1] > logits[2 * i] : logits[2 * i] > logits[2 * i + 1];
  return right / labels.length;
}

/** A regular grid [side^2, 2] over the plane, row by row from the top. */
export function plane(side) {
  const points = new Float64Array(2 * side * side);
  const at = (i) => (2 * EXTENT * (i + 0.5)) / side - EXTENT;
  for (let i = 0; i < side * side; i++) {
    points[2 * i] = at(i % side);
    points[2 * i + 1] = -at(Math.floor(i / side));
  }
  return points;
}

/** The probability [n] of class 1 from logits [n, 2]. */
function probability(logits) {
  const out = new Float32Array(logits.length / 2);
  for (let i = 0; i < out.length; i++)
    out[i] = 1 / (1 + Math.exp(logits[2 * i] - logits[2 * i + 1]));
  return out;
}

/** Equation 4's statistics of the first layers over a reference batch, as it passes through. */
const statisticsOf = (net, batch, layers) =>
  forward(net, batch, (z) => moments(z, net.width), layers).trace.map((layer) => layer.moments);

/** What the page shows of one net: `view` names a layer, a channel, the grid and the shading. */
export function look(run, learner, view) {
  const { net, kind } = learner;
  const { data, pool, rows, others, settings } = run;
  const { layer, channel } = view;
  const uniform = generator(settings.seed + 0.625); // the same batches: what moves is the net
  const grid = plane(view.side);
  const some = (points, size) => choose(points, permutation(points.length / 2, uniform).slice(0, size));
  const all = join(data.labeled, data.unlabeled);
  const batch = () => join(some(data.labeled, rows), kind === "bn" ? [] : some(pool, others));
  const ofAll = statisticsOf(net, all, layer + 1);
  const population = ofAll[layer];
  const deviation = Math.sqrt(population.variance[channel]);
  const dots = Array.from({ length: BATCHES_SHOWN }, () => {
    const { mean, variance } = statisticsOf(net, batch(), layer + 1)[layer];
    const away = mean[channel] - population.mean[channel];
    return [away / deviation, Math.sqrt(variance[channel]) / deviation];
  });
  const fixed = kind === "bn" ? statisticsOf(net, data.labeled, layer + 1) : ofAll;
  const features = (points) => {
    const { z } = forward(net, points, (_, at) => fixed[at], layer + 1).trace[layer];
    const { mean, variance } = fixed[layer];
    const column = z.filter((_, i) => i % net.width === channel);
    return Float32Array.from(column, (v) => (v - mean[channel]) / Math.sqrt(variance[channel] + EPS));
  };
  return {
    kind,
    worst: learner.worst,
    stopped: learner.stopped,
    curve: learner.curve,
    accuracy: view.coarse ? learner.curve.at(-1)[1] : accuracyOf(run, net),
    probability: probability(logitsBy(net.running, net, grid)),
    spread: view.spread ? spread(run, learner, grid, uniform) : null,
    dots,
    labeled: features(data.labeled),
    unlabeled: features(data.unlabeled),
  };
}

/**
 * Figure 4: the standard deviation of the prediction when the batch behind the statistics is drawn
 * again, an unlabeled one for UBN, a labeled one for BN.
 */
function spread(run, { net, kind }, grid, uniform) {
  const plain = kind === "bn" || run.others < 2;
  const [pool, size] = plain ? [run.data.labeled, run.rows] : [run.pool, run.others];
  const drawn = Array.from({ length: RESAMPLED }, () => {
    const batch = choose(pool, permutation(pool.length / 2, uniform).slice(0, size));
    const fixed = statisticsOf(net, batch);
    return probability(logitsBy(fixed, net, grid));
  });
  return drawn[0].map((_, i) => Math.sqrt(moments(drawn.map((values) => values[i]), 1).variance[0]));
}
