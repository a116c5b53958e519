"""The page around a report: style and script for light, dark, the width of a phone, print, and no network."""

from html import escape
from string import Template

STYLE = """:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #595959; --paper: #fff; --line: #ddd; --box: #f3f6f9;
  --link: #0069a6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #a9a9a9; --paper: #141414; --line: #3a3a3a;
  --box: #1f2429; --link: #6cbcf0; } }
body { margin: 0 auto; max-width: 66rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
.kicker { margin: 0; color: var(--soft); }
h1 { font-size: 1.75rem; line-height: 1.2; margin: .2rem 0 1rem; text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .3rem; }
p, li { max-width: 46rem; }
a { color: var(--link); }
.first { display: grid; gap: 1.5rem; grid-template-columns: minmax(0, 41rem) minmax(0, 1fr); align-items: start; }
#deploy { background: var(--box); border-radius: .5rem; padding: 0 1rem 1rem; }
#deploy h2 { margin-top: .8rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; margin: .6rem 0 0; }
code { font-size: .9em; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; }
.qc { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; }
.drawn svg { display: block; width: 100%; min-width: 30rem; max-width: 54rem; height: auto; }
details { border-top: 1px solid var(--line); padding: .5rem 0; }
details[open] { padding-bottom: 1.5rem; }
summary { cursor: pointer; font-weight: 600; color: var(--link); }
h2 + details { margin-top: .8rem; }
table { border-collapse: collapse; font-size: .9rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
thead th { border-bottom: 2px solid var(--soft); white-space: normal; vertical-align: bottom; }
tr.ours td:first-child, td.best { font-weight: 700; }
td small { display: block; color: var(--soft); font-weight: 400; }
table.digests td { white-space: normal; text-align: left; word-break: break-all; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.path { display: inline-flex; gap: 2px; }
.path i, .key i { display: inline-block; width: 1.5rem; height: .8rem; border-radius: 2px; background: var(--line); }
.strip { display: inline-flex; gap: 3px; }
img { height: 2.5rem; border-radius: 2px; vertical-align: middle; }
img.wrong { outline: 3px solid #c8102e; outline-offset: -1px; }
.pairs { display: flex; flex-wrap: wrap; gap: .8rem 1.2rem; }
.pairs img { height: 3.2rem; margin-right: 3px; }
.pairs figcaption { max-width: 8rem; } .pairs small { display: block; white-space: nowrap; }
.bars { list-style: none; padding: 0; }
.bars li { display: grid; grid-template-columns: 10rem 1fr 4rem; gap: .6rem; align-items: center; margin: .2rem 0; }
.bars em { display: flex; } .bars b { height: 1rem; display: inline-block; }
#tip { position: fixed; pointer-events: none; background: var(--ink); color: var(--paper); padding: .2rem .5rem;
  border-radius: .3rem; font-size: .85rem; max-width: 18rem; z-index: 1; }
@media (prefers-color-scheme: dark) { .drawn svg { filter: invert(.92) hue-rotate(180deg); } }
@media (max-width: 54rem) { .first { grid-template-columns: minmax(0, 1fr); } h1 { font-size: 1.45rem; }
  .drawn svg { min-width: 44rem; }
  th, td { padding: .3rem .35rem; } th:first-child, td:first-child { white-space: normal; max-width: 7.5rem; }
  .bars li { grid-template-columns: 6rem 1fr 3.5rem; font-size: .9rem; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --paper: #fff; --line: #ccc; --box: #f3f3f3;
  --link: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; } .drawn svg { filter: none; min-width: 0; }
  .first { grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
  h1, h2, h3, summary { break-after: avoid; } figure, svg, tr, .bars li { break-inside: avoid; }
  details:has(.drawn) { break-inside: avoid; } .qc, .drawn svg { max-height: 16cm; }
  details::details-content { content-visibility: visible; } .scroll { overflow: visible; } table { font-size: 7pt; }
  th, td { padding: .15rem .3rem; } * { print-color-adjust: exact; } }
"""

CHANGES = """.changes figcaption { max-width: 15rem; } .changes figure { display: flex; gap: .5rem; align-items: start; }
.changes .path i { width: 1rem; height: .6rem; }
table.wrapped :is(td, th) { white-space: normal; overflow-wrap: anywhere; text-align: left; }
table.ways :is(td, th):nth-child(2) { text-align: left; }
#deploy h2 + p { margin-top: 0; } td small .path { vertical-align: middle; }
"""
"""Style of what only the page of two results has."""

SCRIPT = """const tip = document.body.appendChild(document.createElement("div"));
tip.id = "tip"; tip.hidden = true;
for (const title of document.querySelectorAll(".qc title")) {
  title.parentNode.dataset.told = title.textContent;
  title.remove();
}
addEventListener("pointerover", (event) => {
  const told = event.target.closest?.("[data-told]")?.dataset.told;
  tip.hidden = !told;
  if (!told) return;
  tip.textContent = told;
  tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4)) + "px";
  tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 10) + "px";
});
const open = () => document.getElementById(location.hash.slice(1))?.closest("details")?.setAttribute("open", "");
addEventListener("hashchange", open);
open();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
"""
"""A point of the first figure says at a touch what it is, an address with a name opens that part, and print has all parts."""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
$body
<script>
$script</script>
</body>
</html>
""")


def document(title: str, body: str, more_style: str = "") -> str:
    """A whole page: HTML text `body` under a plain title, in the common style and what is added to it."""
    return PAGE.substitute(title=escape(title), style=STYLE + more_style, script=SCRIPT, body=body)
