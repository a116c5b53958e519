// The page: one image, one budget, one request; the answer drawn.
import { drawPath } from "/page/path.js";

const by = (id) => document.getElementById(id);
const state = { model: null, image: null, name: "", token: "", run: 0, timer: 0 };

async function ask(url, options = {}) {
  const headers = state.token ? { authorization: `Bearer ${state.token}` } : {};
  const response = await fetch(url, { ...options, headers });
  if (response.status === 401) by("token-form").hidden = false;
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Error(told.error || `status ${response.status}`);
  }
  return response;
}

function say(text, bad = false) {
  by("status").textContent = text;
  by("status").className = bad ? "bad" : "";
}

function number(value, digits = 3) {
  return value >= 0.001 || value === 0 ? String(Number(value.toPrecision(digits))) : value.toExponential(1);
}

function percent(share) {
  return share > 0 && share < 0.001 ? "<\u00a00.1\u00a0%" : `${Math.round(share * 1000) / 10}\u00a0%`;
}

const KINDS = {
  budget: {
    // wide enough for the default, which may be beyond what the operating points cost
    range: ({ budget, budgets: [low, high] }) => [Math.min(low, budget), Math.max(high, budget)],
    default: ({ budget }) => budget,
    said: (text) => `${text} of the static network at 8 bits`,
    note: ({ budgets: [low, high] }) => "Mean cost to spend per image at most; 1 is the static network at 8 bits."
      + ` The cheapest operating point costs ${number(low)}, the dearest ${number(high)}: no budget spends more.`,
  },
  accuracy_loss: {
    range: (model) => model.accuracy_losses,
    default: () => null,
    said: (text) => `${text} points of accuracy`,
    note: ({ accuracy_losses: [low, high] }) => "Points of accuracy that may be lost to the float network; validation images show it at 95\u00a0%."
      + ` They show no less than ${number(low)}; from ${number(high)} on the cheapest operating point serves.`,
  },
};

const kind = () => KINDS[by("kind").value];

// The slider's place (0 to 1000) of a value, and what is asked for at the slider's place.
function placeOf(value) {
  const [low, high] = kind().range(state.model);
  return high > low ? Math.round(1000 * Math.log(value / low) / Math.log(high / low)) : 1000;
}

function asked() {
  const [low, high] = kind().range(state.model), normal = kind().default(state.model);
  const place = Number(by("budget").value);
  return normal !== null && place === placeOf(normal) ? normal : low * (high / low) ** (place / 1000);
}

function showAsked() {
  const { model } = state, normal = kind().default(model);
  const text = number(asked());
  by("budget-text").textContent = text;
  by("budget-note").textContent = kind().note(model);
  const [low, high] = kind().range(model);
  const share = normal === null ? 0.5 : placeOf(normal) / 1000;
  by("low").textContent = share < 0.15 ? "" : number(low); // the mark of the default stands there
  by("high").textContent = share > 0.85 ? "" : number(high);
  const mark = by("default");
  mark.hidden = normal === null;
  if (normal !== null) {
    mark.textContent = `default ${number(normal)}`;
    mark.setAttribute("aria-pressed", String(asked() === normal));
    // the mark stands below the middle of the slider's thumb, 16 px wide, and stays within the line
    mark.style.setProperty("left", `calc(${share} * (100% - 16px) + 8px)`);
    mark.style.setProperty("transform", `translateX(${-100 * share}%)`);
    mark.style.setProperty("--tick", `calc(${100 * share}% - 1px)`);
  }
  by("budget").setAttribute("aria-label", by("kind").selectedOptions[0].text);
  by("budget").setAttribute("aria-valuetext", kind().said(text));
}

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

function bar(name, share, text) {
  const fill = element("i", null);
  fill.style.setProperty("width", `${Math.min(1, Math.max(0, share)) * 100}%`);
  const track = element("span", null, fill);
  track.className = "bar";
  track.setAttribute("aria-hidden", "true");
  const label = element("span", name);
  label.title = name;
  return element("li", null, label, track, element("b", text));
}

function show(answer) {
  const result = answer.results[0];
  const gates = result.gates;
  const spent = result.cost;
  by("result").hidden = false;
  const met = answer.budget_met ? "" : " This is out of reach; the nearest operating point was taken.";
  const sure = percent(Math.max(...result.probabilities));
  say(`${result.class}, ${sure} sure, for ${percent(spent)} of the 8-bit network’s computation.${met}`);
  drawPath(by("path"), state.model, result);
  by("gates").tBodies[0].replaceChildren(...gates.map((gate, i) => element("tr", null,
    element("td", String(gate.gate)),
    element("td", gate.precision),
    element("td", `${gate.class}, ${percent(gate.probability)}`),
    element("td", gate.predicted_error === null ? "–" : percent(gate.predicted_error)),
    element("td", number(gate.cost)),
    element("td", i + 1 < gates.length ? `go on at ${gates[i + 1].precision}` : "exit"))));
  const order = result.probabilities.map((p, i) => [p, i]).sort((a, b) => b[0] - a[0]).slice(0, 5);
  by("probabilities").replaceChildren(...order.map(([p, i]) => bar(state.model.classes[i], p, percent(p))));
  const statics = Object.entries(result.static).filter(([name]) => name !== "fp32").sort((a, b) => a[1] - b[1]);
  const most = Math.max(1, spent, answer.budget ?? 0);
  by("costs").replaceChildren(
    bar("this image", spent / most, number(spent)),
    ...(answer.budget ? [bar("budget (mean)", answer.budget / most, number(answer.budget))] : []),
    ...statics.map(([name, cost]) => bar(`static ${name}`, cost / most, number(cost))));
  const applied = answer.budget && Math.abs(answer.budget_applied / answer.budget - 1) > 0.001
    ? ` Steered to ${number(answer.budget_applied)}, since inputs of late cost other than expected.` : "";
  by("saving").textContent = `The static network at 8 bits would have spent ${number(1 / spent)} times as much`
    + ` (fp32: ${number(result.static.fp32 / spent)} times).${applied}`;
}

async function classify() {
  if (!state.image) return;
  const run = ++state.run;
  const form = new FormData();
  form.append("image", state.image, "image");
  form.append(by("kind").value, String(asked()));
  form.append("explain", "true");
  try {
    const answer = await (await ask("/v1/classify", { method: "POST", body: form })).json();
    if (run === state.run) show(answer);
  } catch (error) {
    if (run === state.run) { by("result").hidden = true; say(error.message, true); }
  }
}

function soon() {
  clearTimeout(state.timer);
  state.timer = setTimeout(classify, 120);
}

function take(blob, name, button = null) {
  state.image = blob;
  const preview = by("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(blob);
  preview.alt = name;
  preview.hidden = false;
  for (const other of by("examples").children) other.setAttribute("aria-pressed", String(other === button));
  classify();
}

async function addExamples() {
  const group = by("examples");
  group.replaceChildren();
  for (const [index, name] of state.model.examples.entries()) {
    const blob = await (await ask(`/v1/examples/${index}`)).blob();
    const picture = element("img", null);
    picture.src = URL.createObjectURL(blob);
    picture.alt = name;
    const button = element("button", null, picture);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => take(blob, name, button));
    group.append(button);
  }
  group.hidden = !group.children.length;
}

async function start() {
  try {
    state.model = await (await ask("/v1/model")).json();
  } catch (error) {
    say(error.message, true);
    return;
  }
  const { model } = state;
  by("token-form").hidden = true;
  by("name").textContent = model.name;
  by("about").textContent = `${model.classes.length} classes, ${model.segments} segments, each at ${model.precisions.join(", ")}.`
    + " Each image takes its own way through them."
    + (model.measure === "agreement" ? " Fitted without labels: errors are disagreements with the float network." : "");
  by("digest").textContent = `SHA-256 ${model.digest}`;
  by("budget").value = placeOf(model.budget);
  by("kind").options[1].disabled = model.accuracy_losses === null;
  showAsked();
  say("Pick an image to see its way through the network.");
  await addExamples();
}

for (const id of ["budget", "kind"]) by(id).addEventListener("input", () => { if (state.model) { showAsked(); soon(); } });
by("default").addEventListener("click", () => {
  by("budget").value = placeOf(kind().default(state.model));
  showAsked();
  soon();
});
by("file").addEventListener("change", (event) => {
  const file = event.target.files[0];
  if (file && state.model) take(file, file.name);
});
by("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = by("token").value.trim();
  start();
});
const drop = by("drop");
for (const kind of ["dragover", "dragenter"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file && state.model) take(file, file.name);
});
start();
