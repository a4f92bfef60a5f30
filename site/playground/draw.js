// Pictures: each function draws what it is given on a canvas, in the page's colors.

import { EXTENT } from "./spiral.js";

/** Fit a canvas to its box and return its context in CSS pixels, cleared, with width and height. */
function open(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = Math.min(3, devicePixelRatio);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "12px system-ui, sans-serif";
  return { context, width, height };
}

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const mix = (a, b, share) => a.map((v, i) => v + share * (b[i] - v));

/** The outline of a mark by matplotlib's name of it. */
function outline(context, marker, x, y, r) {
  const corners = {
    s: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    D: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
    "^": [[0, -1.2], [1.2, 1], [-1.2, 1]],
    X: [[-1, -1.4], [0, -0.5], [1, -1.4], [1.4, -1], [0.5, 0], [1.4, 1],
      [1, 1.4], [0, 0.5], [-1, 1.4], [-1.4, 1], [-0.5, 0], [-1.4, -1]],
  };
  context.beginPath();
  if (marker === "o") context.arc(x, y, r, 0, 2 * Math.PI);
  else for (const [h, v] of corners[marker]) context.lineTo(x + h * r, y + v * r);
  context.closePath();
}

/** Class probability or spread, the boundary, and the points: labeled filled, others hollow. */
export function drawPlane(canvas, net, data, side, colors) {
  const { context, width, height } = open(canvas);
  const [zero, half, one, doubt] = ["zero", "half", "one", "doubt"].map((key) => rgb(colors[key]));
  const [values, shade] = net.spread
    ? [net.spread, (v) => mix(half, doubt, Math.min(1, 2 * v))]
    : [net.probability, (p) => (p < 0.5 ? mix(zero, half, 2 * p) : mix(half, one, 2 * p - 1))];
  const palette = Array.from({ length: 256 }, (_, level) => [...shade(level / 255), 255]);
  const small = new OffscreenCanvas(side, side);
  const image = new ImageData(side, side);
  values.forEach((v, i) => image.data.set(palette[Math.round(255 * v)] ?? [0, 0, 0, 0], 4 * i));
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, width, height);
  drawBoundary(context, net.probability, side, width / side, colors.ink);
  const at = (points, i) => [
    (width * (points[2 * i] + EXTENT)) / (2 * EXTENT),
    (height * (EXTENT - points[2 * i + 1])) / (2 * EXTENT),
  ];
  const size = width / 340;
  context.lineWidth = 0.8 * size;
  context.strokeStyle = colors.hollow;
  for (let i = 0; i < data.unlabeled.length / 2; i++) {
    outline(context, "o", ...at(data.unlabeled, i), 2.2 * size);
    context.stroke();
  }
  context.strokeStyle = colors.ink;
  for (let i = 0; i < data.labels.length; i++) {
    outline(context, data.labels[i] ? "^" : "o", ...at(data.labeled, i), 4 * size);
    context.fillStyle = colors[`class-${data.labels[i]}`];
    context.fill();
    context.stroke();
  }
}

/** The line where the probability is one half, by marching squares. */
function drawBoundary(context, p, side, cell, color) {
  context.beginPath();
  for (let row = 0; row + 1 < side; row++)
    for (let column = 0; column + 1 < side; column++) {
      const i = row * side + column;
      const inside = (p[i] > 0.5) + (p[i + 1] > 0.5) + (p[i + side] > 0.5) + (p[i + side + 1] > 0.5);
      if (inside % 4 === 0) continue;
      const corners = [[0, 0], [1, 0], [1, 1], [0, 1]];
      const values = [p[i], p[i + 1], p[i + side + 1], p[i + side]].map((v) => v - 0.5);
      const crossings = corners.flatMap(([x, y], from) => {
        const to = (from + 1) % 4;
        if (values[from] > 0 === values[to] > 0) return [];
        const share = values[from] / (values[from] - values[to]);
        const [u, v] = corners[to];
        return [[column + 0.5 + x + share * (u - x), row + 0.5 + y + share * (v - y)]];
      });
      for (let k = 0; k + 1 < crossings.length; k += 2) {
        context.moveTo(cell * crossings[k][0], cell * crossings[k][1]);
        context.lineTo(cell * crossings[k + 1][0], cell * crossings[k + 1][1]);
      }
    }
  context.lineWidth = 1.4;
  context.strokeStyle = color;
  context.stroke();
}

const clip = (v, [low, high]) => Math.max(low, Math.min(high, v));

/** Axes with ticks at the given values; returns how to place values. */
function axes({ context, width, height }, colors, { x, y, xTicks, yTicks, xName }) {
  const [left, right, top, bottom] = [yTicks.length ? 34 : 8, width - 8, 8, height - 34];
  const across = (v) => left + ((right - left) * (v - x[0])) / (x[1] - x[0]);
  const up = (v) => bottom - ((bottom - top) * (v - y[0])) / (y[1] - y[0]);
  context.strokeStyle = colors.line;
  context.fillStyle = colors.soft;
  context.lineWidth = 1;
  context.textAlign = "center";
  for (const v of xTicks) {
    context.textAlign = across(v) > right - 12 ? "right" : "center";
    context.fillText(v, Math.min(across(v), right + 8), bottom + 15);
  }
  context.textAlign = "center";
  context.fillText(xName, (left + right) / 2, height - 4);
  context.textAlign = "right";
  for (const v of yTicks) {
    context.fillText(v, left - 5, up(v) + 4);
    line(context, [[left, up(v)], [right, up(v)]]);
  }
  if (!yTicks.length) line(context, [[left, bottom], [right, bottom]]);
  return { across, up };
}

function line(context, points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
}

/** Means and deviations of batches, as marks around the cross of all points. */
export function drawStatistics(canvas, net, { color, marker }, colors) {
  const opened = open(canvas);
  const { context } = opened;
  const [x, y] = [[-0.8, 0.8], [0.4, 1.6]]; // what lies outside is drawn on the border
  const { across, up } = axes(opened, colors, {
    x, y, xTicks: [-0.5, 0, 0.5], yTicks: [0.5, 1, 1.5], xName: "mean",
  });
  context.strokeStyle = colors.soft;
  line(context, [[across(x[0]), up(1)], [across(x[1]), up(1)]]);
  line(context, [[across(0), up(y[0])], [across(0), up(y[1])]]);
  context.fillStyle = colors[color];
  context.globalAlpha = 0.8;
  for (const [mean, deviation] of net.dots) {
    if (!Number.isFinite(mean + deviation)) continue; // a channel that is constant over all points
    const [h, v] = [clip(mean, x), clip(deviation, y)];
    outline(context, marker, across(h), up(v), 4);
    context.fill();
  }
}

/** One channel behind its normalization: densities of labeled and unlabeled points. */
export function drawHistogram(canvas, net, colors) {
  const opened = open(canvas);
  const { context } = opened;
  const [from, to, bins] = [-3, 3, 24];
  const { across, up } = axes(opened, colors, {
    x: [from, to], y: [0, 1], xTicks: [-2, 0, 2], yTicks: [], xName: "normalized feature",
  });
  for (const kind of ["unlabeled", "labeled"]) {
    const counts = new Float64Array(bins);
    for (const v of net[kind]) {
      const bin = Math.floor((bins * (v - from)) / (to - from));
      if (Number.isFinite(v)) counts[Math.max(0, Math.min(bins - 1, bin))] += 1;
    }
    const unit = bins / (net[kind].length * (to - from));
    context.fillStyle = colors[kind];
    context.globalAlpha = 0.6;
    counts.forEach((count, i) => {
      const left = across(from + (i * (to - from)) / bins);
      const right = across(from + ((i + 1) * (to - from)) / bins);
      const top = up(Math.min(1, count * unit));
      context.fillRect(left, top, right - left, up(0) - top);
    });
  }
}

/** Accuracy over steps: this run as lines, the band of earlier ones behind them. */
export function drawAccuracy(canvas, nets, looks, bands, steps, colors) {
  const opened = open(canvas);
  const { context } = opened;
  const { across, up } = axes(opened, colors, {
    x: [0, steps], y: [0.4, 1], xTicks: [0, steps / 2, steps], yTicks: [0.4, 0.6, 0.8, 1],
    xName: "step",
  });
  nets.forEach((net, i) => {
    const { marker, dash } = looks[i];
    const color = colors[looks[i].color];
    const band = bands[i];
    if (band.length) {
      context.beginPath();
      for (const [step, low] of band) context.lineTo(across(step), up(low));
      for (const [step, , high] of band.toReversed()) context.lineTo(across(step), up(high));
      context.fillStyle = color;
      context.globalAlpha = 0.22;
      context.fill();
      context.globalAlpha = 1;
    }
    const places = net.curve.map(([step, value]) => [across(step), up(value)]);
    context.strokeStyle = context.fillStyle = color;
    context.lineWidth = 2;
    context.setLineDash(dash.map((part) => 2 * part));
    line(context, places);
    for (const place of places.filter((_, at) => at % 2 === i)) {
      outline(context, marker, ...place, 3.5);
      context.fill();
    }
  });
}
