"""The report as one HTML page with inline figures and style; it loads nothing from elsewhere."""

from html import escape
from string import Template

from quee.report import Results, sections
from quee.report.executed import executed_section
from quee.report.figures import FIGURES
from quee.report.markup import drawing
from quee.report.policies import chosen_policies

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: #fff; color: #1c1c1c;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; border-top: 1px solid #ddd; padding-top: 1rem; }
p, li { max-width: 46rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
a { color: #0072b2; }
.scroll { overflow-x: auto; }
figure { margin: 1rem 0; }
figure svg { display: block; width: 100%; min-width: 30rem; max-width: 54rem; height: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e2e2e2; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 2px solid #555; white-space: normal; vertical-align: bottom; }
tr.ours td:first-child, td.best { font-weight: 700; }
td small { display: block; color: #5a5a5a; font-weight: 400; }
table.digests td { white-space: normal; text-align: left; word-break: break-all; }
code { font-size: .85em; }
@media (max-width: 40rem) { th:first-child, td:first-child { white-space: normal; max-width: 7.5rem; } }
</style>
</head>
<body>
$body
</body>
</html>
""")


STAGES = Template("""<h2 id="stages">Stages</h2>
<p id="stages-away">Run times are not part of the results: this table is filled from the run records where the pipeline
ran, and this copy of the page is away from them.</p>
<div class="scroll"><table id="stages-table" hidden><thead><tr><th scope="col">stage</th><th scope="col">seconds</th>
<th scope="col">peak memory, MB</th><th scope="col">result, MB</th><th scope="col">started</th><th scope="col">commit</th>
<th scope="col">machine</th></tr></thead><tbody></tbody></table></div>
<script>
function queeStages(rows) {
  const table = document.getElementById("stages-table"), body = table.tBodies[0];
  for (const row of rows) {
    const line = body.insertRow();
    for (const cell of row) line.insertCell().textContent = cell;
  }
  table.hidden = false;
  document.getElementById("stages-away").textContent = "The latest execution of each stage on this checkout.";
}
</script>
<script src="$records"></script>""")
"""A script reads run times when the page is opened, so that the page itself depends on results alone."""


def build_page(results: Results, figures: dict[str, str], records: str | None = None) -> str:
    """The page for results and their figures (SVG text by name).

    `records` is the path, relative to the page, of a script that calls `queeStages` with the time of each stage.
    """

    def drawn(section: str) -> list[str]:
        """The figures that follow a section, each with its numbers."""
        parts = []
        for figure in FIGURES:
            if figure.after == section and figure.name in figures:
                parts.append(drawing(figure.name, figures[figure.name], *figure.words(results)))
            if figure.after == section and figure.table is not None:
                parts.append(figure.table(results))
        return parts

    stages = STAGES.substitute(records=escape(records)) if records else ""
    said = results.measure.said
    body = [
        f"<h1>{escape(results.title)}</h1>",
        sections.introduction(results),
        (
            '<nav><a href="#findings">Findings</a><a href="#curves">Curves</a>'
            f'{"""<a href="#policies">Policies</a>""" if chosen_policies(results) else ""}'
            '<a href="#budgets">Budgets</a>'
            '<a href="#methods">Methods</a><a href="#savings">Savings</a><a href="#parts">Parts</a>'
            f'{stages and """<a href="#stages">Stages</a>"""}<a href="#lineage">Lineage</a></nav>'
        ),
        said(sections.findings(results)),
        *map(said, drawn("findings")),
        said(sections.budgets(results)),
        sections.labelled(results),
        said(sections.savings(results)),
        *map(said, drawn("savings")),
        said(sections.methods(results)),
        said(executed_section(results.executed)),
        *map(said, drawn("executed")),
        said(sections.parts(results)),
        stages,
        _lineage(results),
    ]
    return PAGE.substitute(title=escape(results.title), body="\n".join(part for part in body if part))


def _lineage(results: Results) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(digest)}</code></td></tr>"
        for name, digest in sorted(results.digests.items())
    )
    return (
        '<h2 id="lineage">Lineage</h2><p>This page was made from these files alone (SHA-256). The same files give '
        "the same page, byte for byte.</p>"
        f'<div class="scroll"><table class="digests"><tbody>{rows}</tbody></table></div>'
    )
