// The worker: trains while the page draws, and answers a test that compares it with the library.

import { adam, adamState, makeNet, trainingStep } from "./net.js";
import { advance, look, startRun } from "./run.js";

const CHUNK = 40; // milliseconds of training between two looks at the messages
const SHARE = 0.1; // of the time, for pictures
const COARSEST = 20; // points a side of a picture
const wake = new MessageChannel(); // sooner than a timer, and messages come in between
let waking = false;
let run = null;
let until = 0; // train while the run has made fewer steps
let view = null;
let pace = null; // steps trained and milliseconds taken; when it was resumed; the last picture

/** Send what is to be seen now: coarser while the nets train. */
function show() {
  const started = performance.now();
  const playing = run.step < until;
  const side = playing ? Math.round(Math.min(view.moving, pace.side)) : view.resting;
  const nets = run.learners.map((learner) => look(run, learner, { ...view, side, coarse: playing }));
  const taken = pace.taken + (pace.resumed ? started - pace.resumed : 0);
  const { id, step, data } = run;
  const rate = (1000 * pace.trained) / taken;
  postMessage({ kind: "seen", id, step, playing, nets, data, view, side, rate });
  pace.last = performance.now();
  if (!playing) return;
  pace.cost = pace.last - started;
  const wanted = side * Math.sqrt((SHARE * view.every) / pace.cost); // its cost goes with the square
  pace.side = Math.max(COARSEST, Math.min(view.moving, Math.sqrt(side * wanted))); // without a jump
}

/** Train for a moment, then let messages in; pictures take their share of the time. */
function train() {
  const started = performance.now();
  if (pace.resumed) pace.taken += started - pace.resumed;
  pace.resumed = started;
  while (run.step < until && performance.now() - started < CHUNK) {
    advance(run);
    pace.trained += 1;
    if (run.learners.every((learner) => learner.stopped)) until = run.step;
  }
  const waited = performance.now() - pace.last;
  if (run.step >= until || waited > Math.max(view.every, pace.cost / SHARE)) show();
  if (run.step < until) goOn();
  else pace.resumed = 0;
}

function goOn() {
  if (!waking) wake.port2.postMessage(null);
  waking = true;
}

wake.port1.onmessage = () => {
  waking = false;
  if (run.step < until) train();
};

/** Do 20 steps, or so, on given weights, data and batches, and return every number. */
function replay({ width, reading, rate, weights, data, batches }) {
  const net = makeNet(Float64Array.from(weights), width);
  const optimizer = adamState(weights.length);
  const pick = (points, rows) => Float64Array.from(rows.flatMap((row) => points[row]));
  return batches.map(([labeled, unlabeled]) => {
    const labels = labeled.map((row) => data.labels[row]);
    const points = [pick(data.labeled, labeled), labels, pick(data.unlabeled, unlabeled)];
    const { loss, gradient, statistics, running } = trainingStep(net, reading, ...points);
    net.running = running;
    adam(optimizer, net.parameters, gradient, rate);
    const list = (all) =>
      all.map(({ mean, variance }) => ({ mean: [...mean], variance: [...variance] }));
    return { loss, gradient: [...gradient], statistics: list(statistics), running: list(running) };
  });
}

const commands = {
  start(message) {
    run = { ...startRun(message.settings), id: message.id };
    until = 0;
    view = message.view;
    pace = { trained: 0, taken: 0, resumed: 0, last: 0, cost: 0, side: Infinity };
    show();
  },
  play(message) {
    until = message.until;
    pace.resumed = 0;
    goOn();
  },
  step() {
    until = Math.max(until, run.step) + 1;
    goOn();
  },
  pause() {
    until = run.step;
    pace.resumed = 0;
    show();
  },
  view(message) {
    view = message.view;
    if (run.step >= until) show();
  },
  replay(message) {
    postMessage({ kind: "replayed", steps: replay(message) });
  },
};

onmessage = ({ data }) => {
  try {
    commands[data.kind](data);
  } catch (error) {
    postMessage({ kind: "failed", sentence: `The worker failed: ${error.message}` });
  }
};
