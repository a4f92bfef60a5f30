// The page: controls, what the worker sends, and the pictures of it.

import { drawAccuracy, drawHistogram, drawPlane, drawStatistics } from "./draw.js";
import {
  FIELDS, OF_THE_VIEW, TOUR, checked, defaults, fault, fromLink, looks, toLink, troubles,
} from "./settings.js";

const STEPS = 1000; // of a run, as in the committed records
const RUNS_KEPT = 8; // behind the band
const GLYPHS = { o: "\u25CF", s: "\u25A0", D: "\u25C6", "^": "\u25B2", X: "\u2716" }; // of the marks
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const DARK = matchMedia("(prefers-color-scheme: dark)");

const element = (id) => document.getElementById(id);
const source = new Blob([element("worker").textContent], { type: "text/javascript" });
const worker = new Worker(URL.createObjectURL(source));

let settings = defaults();
let seen = null; // the worker's latest picture
let until = STEPS;
let playing = false;
let id = 0; // of the run
let said = []; // sentences on the link and the settings
let finished = new Map(); // by seed, the curves of runs that are alike otherwise

/** What must be alike for two runs to be seeds of one setting. */
function family(of) {
  const apart = [...OF_THE_VIEW, "seed"].map((key) => [key, FIELDS[key].value]);
  return toLink({ ...of, ...Object.fromEntries(apart) });
}

const view = () => ({
  layer: settings.layer - 1,
  channel: settings.channel,
  spread: settings.shade === "spread",
  moving: 48, // points a side of the grid while a net trains, where there is time for so many
  resting: 84,
  every: CALM.matches ? 2000 : 200, // milliseconds between two pictures
});

/** Begin again with other settings. */
function restart(changes = {}, notes = []) {
  const before = family(settings);
  if (seen?.step >= STEPS) finished.set(settings.seed, seen.nets.map((net) => net.curve));
  if (finished.size > RUNS_KEPT) finished.delete(finished.keys().next().value);
  settings = { ...settings, ...changes };
  if (family(settings) !== before) finished.clear();
  const { used, sentences } = checked(settings);
  said = [...notes, ...sentences];
  until = STEPS;
  playing = false;
  seen = null;
  element("count").textContent = element("status").textContent = "";
  reflect();
  id += 1;
  worker.postMessage({ kind: "start", id, settings: used, view: view() });
}

function play() {
  if (seen && seen.step >= until) until += STEPS;
  playing = true;
  element("status").textContent = "";
  worker.postMessage({ kind: "play", until });
  label();
}

function pause() {
  playing = false;
  worker.postMessage({ kind: "pause" });
  label();
}

const label = () => (element("play").textContent = playing ? "Pause" : "Play");

/** Show the settings in the controls and in the address. */
function reflect() {
  for (const [key, field] of Object.entries(FIELDS)) {
    const control = element(`set-${key}`);
    control.value = field.logarithmic ? Math.log10(settings[key]) : settings[key];
    const output = element(`value-${key}`);
    if (output) output.textContent = settings[key];
    if (field.logarithmic) control.setAttribute("aria-valuetext", settings[key]);
  }
  const { color, marker } = looks(settings)[1];
  const root = document.documentElement.style;
  root.setProperty("--reading", `var(--${color})`);
  root.setProperty("--marker", `"${GLYPHS[marker]}"`);
  const now = toLink(settings);
  for (const [i, { sets }] of TOUR.entries()) {
    const alike = now === toLink({ ...defaults(), ...sets, seed: settings.seed });
    element(`tour-${i}`).setAttribute("aria-pressed", alike);
  }
  try {
    history.replaceState(null, "", now ? `#${now}` : location.pathname + location.search);
  } catch {
    // Some browsers keep the address of pages opened as files; Copy link still has it.
  }
  label();
  notes([]);
}

function notes(more) {
  const sentences = [...said, ...more];
  const list = element("notes");
  if (list.dataset.said === sentences.join("\n")) return;
  list.dataset.said = sentences.join("\n");
  list.replaceChildren(
    ...sentences.map((text) => Object.assign(document.createElement("li"), { textContent: text })),
  );
}

/** The curves of the runs with other seeds. */
function others() {
  const apart = [...finished].filter(([seed]) => seed !== settings.seed);
  return apart.map(([, curves]) => curves);
}

/** Lowest and highest accuracy of other runs at each step, for one of the nets. */
function band(index) {
  const curves = others().map((curves) => curves[index]);
  if (!curves.length) return [];
  const shortest = Math.min(...curves.map((curve) => curve.length));
  return curves[0].slice(0, shortest).map(([step], at) => {
    const values = curves.map((curve) => curve[at][1]);
    return [step, Math.min(...values), Math.max(...values)];
  });
}

function draw() {
  if (!seen) return;
  const style = getComputedStyle(document.documentElement);
  const names = ("ink soft line hollow zero half one doubt bn ubn literal joint again " +
    "labeled unlabeled class-0 class-1").split(" ");
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const colors = Object.fromEntries(names.map((name) => [name, color(name)]));
  const both = looks(settings);
  seen.nets.forEach((net, i) => {
    drawPlane(element(`plane-${i}`), net, seen.data, seen.side, colors);
    drawStatistics(element(`statistics-${i}`), net, both[i], colors);
    drawHistogram(element(`histogram-${i}`), net, colors);
  });
  drawAccuracy(element("accuracy"), seen.nets, both, [band(0), band(1)], until, colors);
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Say in words what the pictures show. */
function describe() {
  const [bn, ubn] = seen.nets;
  const { layer, channel, spread } = seen.view; // not yet the settings', perhaps
  const place = `layer ${layer + 1}, channel ${channel}`;
  const shade = spread ? "spread of predictions" : "class probability";
  for (const [i, net] of seen.nets.entries()) {
    const name = i ? "UBN" : "BN";
    element(`score-${i}`).textContent = percent(net.accuracy);
    const say = (id, text) => element(`${id}-${i}`).setAttribute("aria-label", text);
    const plane = `${shade} over the plane, boundary and points`;
    say("plane", `${name} at step ${seen.step}: ${plane}; accuracy ${percent(net.accuracy)}`);
    const far = net.dots.reduce((sum, [mean]) => sum + Math.abs(mean) / net.dots.length, 0);
    const distance = `${far.toFixed(2)} deviations from that of all points, on average`;
    say("statistics", `${name}'s batches, ${place}: their means lie ${distance}`);
    say("histogram", `${name}: histograms of labeled and unlabeled points, ${place}`);
  }
  const now = `step ${seen.step}: BN ${percent(bn.accuracy)}, UBN ${percent(ubn.accuracy)}`;
  element("accuracy").setAttribute("aria-label", `Accuracy over steps, at ${now}`);
  const runs = others().length;
  element("band").textContent = runs ? `band: ${runs} other seed${runs > 1 ? "s" : ""}` : "";
  element("progress").max = until;
  element("progress").value = seen.step;
  const rate = seen.rate ? `, ${Math.round(seen.rate)} steps a second` : "";
  element("count").textContent = `step ${seen.step} of ${until}${rate}`;
  if (!playing && seen.step) element("status").textContent = `Seed ${settings.seed}, ${now}.`;
}

function legend() {
  const entries = {
    class: ["\u2014", "ink", "decision boundary"],
    spread: ["\u25A0", "doubt", "predictions vary with the batch (full color: deviation 0.5)"],
  };
  const points = [
    [GLYPHS.o, "class-0", "labeled, class 0"],
    [GLYPHS["^"], "class-1", "labeled, class 1"],
    ["\u25CB", "hollow", "unlabeled"],
  ];
  element("legend").replaceChildren(
    ...[...points, entries[settings.shade]].map(([glyph, color, text]) => {
      const entry = document.createElement("span");
      const mark = Object.assign(document.createElement("i"), { textContent: glyph, ariaHidden: true });
      mark.style.setProperty("--color", `var(--${color})`);
      entry.append(mark, text);
      return entry;
    }),
  );
}

worker.onmessage = ({ data }) => {
  if (data.kind === "failed") return notes([data.sentence]);
  if (data.kind !== "seen") return;
  if (data.id !== id) return; // of a run that is over
  // A picture may still be that of a pause which is over.
  const over = data.step >= until || data.nets.every((net) => net.stopped);
  const ended = playing && !data.playing && over;
  seen = data;
  if (ended) {
    playing = false;
    label();
  }
  notes(troubles(data.nets));
  describe();
  draw();
  if (ended && element("onward").checked && data.step >= STEPS) nextSeed();
};
worker.onerror = (event) => {
  playing = false;
  label();
  notes([`The playground's worker cannot run here: ${event.message}.`]);
};

function nextSeed() {
  restart({ seed: (settings.seed + 1) % (FIELDS.seed.to + 1) });
  play();
}

/** Change one setting: a new run, or only another look at this one. */
function change(key, value) {
  if (!OF_THE_VIEW.includes(key)) {
    const before = playing;
    restart({ [key]: value });
    return before && play();
  }
  settings = { ...settings, [key]: value };
  reflect();
  legend();
  worker.postMessage({ kind: "view", view: view() });
}

function makeControls() {
  const form = element("settings");
  for (const [key, field] of Object.entries(FIELDS)) {
    const label = document.createElement("label");
    const control = document.createElement(field.choices ? "select" : "input");
    control.id = `set-${key}`;
    label.htmlFor = control.id;
    label.append(field.name, control);
    if (key === "shade") form.append(document.createElement("hr"));
    form.append(label);
    if (field.choices) {
      for (const [value, text] of Object.entries(field.choices)) control.add(new Option(text, value));
      control.addEventListener("change", () => change(key, control.value));
      continue;
    }
    const place = field.logarithmic ? Math.log10 : Number;
    control.type = field.typed ? "number" : "range";
    control.min = place(field.from);
    control.max = place(field.to);
    control.step = field.logarithmic ? 0.25 : (field.step ?? 1);
    const value = () => {
      const number = control.value.trim() === "" ? NaN : Number(control.value);
      return field.logarithmic ? Number((10 ** number).toPrecision(2)) : number;
    };
    control.addEventListener("change", () => {
      const wrong = fault(field, value());
      if (!wrong) return change(key, value());
      said = [`${field.name} cannot be "${control.value}": ${wrong}; it stays ${settings[key]}.`];
      reflect();
    });
    if (field.typed) continue;
    const output = Object.assign(document.createElement("output"), {
      id: `value-${key}`,
      ariaHidden: true, // the slider itself says its value
    });
    control.before(output);
    control.addEventListener("input", () => (output.textContent = value()));
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  element("tour").append(
    ...TOUR.map(({ title, sets, says }, i) => {
      const item = document.createElement("li");
      const button = Object.assign(document.createElement("button"), { id: `tour-${i}` });
      const name = Object.assign(document.createElement("b"), { textContent: `${i + 1}. ${title}` });
      const minus = says.replaceAll(/([ [])-/g, "$1\u2212");
      const text = Object.assign(document.createElement("span"), { textContent: minus });
      button.append(name, text);
      button.addEventListener("click", () => {
        restart({ ...defaults(), ...sets, seed: settings.seed });
        legend();
        play();
      });
      item.append(button);
      return item;
    }),
  );
}

async function copyLink() {
  const link = `${location.href.split("#")[0]}#${toLink(settings)}`;
  try {
    await navigator.clipboard.writeText(link);
    element("status").textContent = "The link is copied.";
  } catch {
    element("status").textContent = `The link to these settings: ${link}`;
  }
}

makeControls();
document.querySelector("main").hidden = false;
element("play").addEventListener("click", () => (playing ? pause() : play()));
element("step").addEventListener("click", () => {
  if (playing) return pause();
  if (seen && seen.step >= until) until += STEPS;
  worker.postMessage({ kind: "step" });
});
element("reset").addEventListener("click", () => restart());
element("next").addEventListener("click", nextSeed);
element("link").addEventListener("click", copyLink);
DARK.addEventListener("change", draw);
addEventListener("resize", draw);
const openLink = () => {
  const { settings: linked, sentences } = fromLink(location.hash);
  restart(linked, sentences);
  legend();
};
addEventListener("hashchange", openLink);
openLink();
