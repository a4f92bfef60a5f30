// The settings: their limits, how a link carries them, what the page says of them, and the tour.

export const FIELDS = {
  labels: { name: "Labeled points a class", from: 1, to: 200, value: 25 },
  batch: { name: "Labeled batch", from: 1, to: 100, value: 32 },
  unlabeled: { name: "Unlabeled batch", from: 0, to: 400, value: 64 },
  noise: { name: "Noise", from: 0, to: 1, step: 0.05, value: 0 },
  rate: { name: "Learning rate", from: 1e-4, to: 10, logarithmic: true, value: 0.01 },
  seed: { name: "Seed", from: 0, to: 9999, value: 0, typed: true },
  reading: {
    name: "Reading of UBN",
    value: "corrected",
    choices: {
      corrected: "corrected gradient",
      literal: "literal: constant statistics",
      joint: "joint pass: gradient through all",
      averages: "moving averages normalize",
    },
  },
  rows: {
    name: "Unlabeled rows are",
    value: "unlabeled",
    choices: { unlabeled: "unlabeled points", labeled: "labeled points again" },
  },
  shade: {
    name: "Shade",
    value: "class",
    choices: { class: "probability of a class", spread: "spread (Figure 4)" },
  },
  layer: { name: "Layer", from: 1, to: 4, value: 1 },
  channel: { name: "Channel", from: 0, to: 63, value: 0 },
};

// What changes the picture only, and not the run.
export const OF_THE_VIEW = ["shade", "layer", "channel"];

export const defaults = () =>
  Object.fromEntries(Object.entries(FIELDS).map(([key, field]) => [key, field.value]));

/** Five steps; their numbers are those of the committed records, as a test makes sure. */
export const TOUR = [
  {
    title: "Small labeled batches",
    sets: { batch: 8 },
    says: "With 8 labeled points a step BN's statistics are noisy, and UBN is ahead by +0.272 [0.247, 0.295] (30 seeds).",
  },
  {
    title: "A larger batch",
    sets: {},
    says: "With 32, BN's best size, little is left of the lead: +0.023 [0.016, 0.031] (30 seeds).",
  },
  {
    title: "All labeled points",
    sets: { batch: 50 },
    says: "With all 50 in each step BN has no noise at all. UBN has some, and leads by +0.042 [0.030, 0.056] (30 seeds).",
  },
  {
    title: "The literal text",
    sets: { reading: "literal" },
    says: "With constant statistics in the backward pass UBN is no better than BN: -0.001 [-0.023, 0.014] (30 seeds).",
  },
  {
    title: "Where it doubts",
    sets: { shade: "spread" },
    says: "The spread over batches marks wrong predictions (AUROC 0.61), and not regions outside the spiral (0.13; 30 seeds).",
  },
];

// How each method is drawn, with matplotlib's names, as experiments/common/style.py says.
const LOOKS = {
  bn: { color: "bn", marker: "s", dash: [3.7, 1.6] },
  corrected: { color: "ubn", marker: "o", dash: [] },
  averages: { color: "ubn", marker: "o", dash: [] },
  literal: { color: "literal", marker: "X", dash: [6.4, 1.6, 1, 1.6] },
  joint: { color: "joint", marker: "^", dash: [8, 2] },
  again: { color: "again", marker: "D", dash: [4, 1, 4, 3] }, // labeled rows in the place of unlabeled
};

/** The looks of both nets. */
export const looks = ({ reading, rows }) => [LOOKS.bn, LOOKS[rows === "labeled" ? "again" : reading]];

/** Return why a value cannot be a field's, or "". */
export function fault(field, value) {
  if (field.choices)
    return Object.hasOwn(field.choices, value)
      ? ""
      : `it must be one of ${Object.keys(field.choices).join(", ")}`;
  const whole = !field.step && !field.logarithmic;
  if (!Number.isFinite(value) || value < field.from || value > field.to || (whole && value % 1))
    return `it must be a ${whole ? "whole " : ""}number from ${field.from} to ${field.to}`;
  return "";
}

/** Read settings from a link's fragment; what is damaged is named and takes its default. */
export function fromLink(fragment) {
  const settings = defaults();
  const sentences = [];
  for (const [key, text] of new URLSearchParams(fragment.replace(/^#/, ""))) {
    const field = Object.hasOwn(FIELDS, key) ? FIELDS[key] : null;
    if (!field) {
      sentences.push(`The link names "${key}", which is no setting of this page.`);
      continue;
    }
    const value = field.choices || text.trim() === "" ? text : Number(text);
    const wrong = fault(field, value);
    if (wrong) sentences.push(`The link has "${text}" for ${key}: ${wrong}; ${field.value} is taken.`);
    else settings[key] = value;
  }
  return { settings, sentences };
}

/** The fragment of a link to these settings; what has its default is left out. */
export function toLink(settings) {
  const changed = Object.keys(FIELDS).filter((key) => settings[key] !== FIELDS[key].value);
  return new URLSearchParams(changed.map((key) => [key, settings[key]])).toString();
}

/** Settings that can be trained, and sentences on what they mean where that may surprise. */
export function checked(settings) {
  const sentences = [];
  const used = { ...settings };
  const points = 2 * used.labels;
  if (used.batch < 2) {
    used.batch = 2;
    sentences.push("One labeled row has no variance: BN needs at least 2, and gets 2.");
  }
  if (used.batch > points) {
    used.batch = points;
    sentences.push(`There are ${points} labeled points: each labeled batch is all of them.`);
  }
  const pool = used.rows === "labeled" ? points : 400;
  if (used.unlabeled > pool) {
    used.unlabeled = pool;
    sentences.push(`There are ${pool} points to draw unlabeled rows from: each batch is all of them.`);
  }
  if (used.unlabeled === 0)
    sentences.push("Without unlabeled rows UBN is batch normalization: both nets are the same.");
  return { used, sentences };
}

const DIVERGED = 20; // a loss; that of a guess is log 2

/** What there is to say of a run's losses. */
export function troubles(nets) {
  return nets.flatMap(({ kind, worst, stopped }) => {
    const name = kind === "bn" ? "BN" : "UBN";
    const lower = "lower the learning rate";
    if (stopped) return [`${name}'s loss is no number at step ${stopped}, where it stopped: ${lower}.`];
    if (worst < DIVERGED) return [];
    return [`${name} diverged: its loss passed ${DIVERGED}, where a guess has 0.7; ${lower}.`];
  });
}
