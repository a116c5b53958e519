// Draws the way of an image: a column per segment, a row per precision, an exit below each gate.

const SPACE = "http://www.w3.org/2000/svg";
const ROW = 40, TOP = 28, LEFT = 8;

function shape(name, attributes, text) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

let drawn = null;

export function drawPath(svg, model, result) {
  drawn = [svg, model, result];
  const width = Math.max(280, svg.clientWidth || svg.parentNode.clientWidth);
  const rows = [...model.precisions].reverse();
  const column = (width - 2 * LEFT) / model.segments;
  const height = TOP + rows.length * ROW + 40;
  const box = Math.min(70, column - 18);
  const x = (segment) => LEFT + column * (segment - 0.5);
  const y = (precision) => TOP + ROW * (rows.indexOf(precision) + 0.5);
  const floor = TOP + rows.length * ROW;
  const gates = result.gates, last = gates[gates.length - 1];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.setProperty("height", `${height}px`);
  const title = shape("title", { id: "path-title" },
    `Segments 1 to ${gates.length} at ${gates.map((gate) => gate.precision).join(", then ")}; exit at gate ${last.gate} of ${model.segments} as ${result.class}.`);
  const parts = [title];
  for (let segment = 1; segment <= model.segments; segment += 1) {
    const gate = gates[segment - 1];
    parts.push(shape("text", { x: x(segment), y: 16, "text-anchor": "middle" }, `${column > 90 ? "segment" : "seg."} ${segment}`));
    for (const precision of rows) {
      parts.push(shape("rect", { x: x(segment) - box / 2, y: y(precision) - 13, width: box, height: 26, rx: 5, class: "cell" }));
      if (!gate || gate.precision !== precision) {
        parts.push(shape("text", { x: x(segment), y: y(precision) + 4.5, "text-anchor": "middle" }, precision));
      }
    }
    if (!gate) parts.push(shape("line", { x1: x(segment), y1: floor, x2: x(segment), y2: floor + 12, class: "open" }));
  }
  const points = gates.map((gate) => [x(gate.gate), y(gate.precision)]);
  const way = points.map(([px, py], i) => {
    if (!i) return `M${px} ${py}`;
    const [ox, oy] = points[i - 1];
    return `C${(ox + px) / 2} ${oy} ${(ox + px) / 2} ${py} ${px} ${py}`;
  });
  const [ex, ey] = points[points.length - 1];
  parts.push(shape("path", { d: `M${LEFT} ${points[0][1]}L${points[0].join(" ")}${way.join("")}`, class: "way" }));
  parts.push(shape("path", { d: `M${ex + box / 2} ${ey}C${ex + column / 2} ${ey} ${ex + column / 2} ${ey} ${ex + column / 2 - 2} ${floor - 6}L${ex + column / 2 - 2} ${floor + 14}`, class: "way" }));
  for (const gate of gates) {
    parts.push(shape("rect", { x: x(gate.gate) - box / 2, y: y(gate.precision) - 13, width: box, height: 26, rx: 5, class: "taken" }));
    parts.push(shape("text", { x: x(gate.gate), y: y(gate.precision) + 4.5, "text-anchor": "middle", class: "on" }, gate.precision));
  }
  const out = ex + column / 2 - 2;
  const anchor = out > width * 0.66 ? "end" : out < width * 0.33 ? "start" : "middle";
  parts.push(shape("text", { x: out, y: floor + 32, "text-anchor": anchor, class: "out" }, `exit ${last.gate}: ${result.class}`));
  svg.replaceChildren(...parts);
}

addEventListener("resize", () => { if (drawn) drawPath(...drawn); });
