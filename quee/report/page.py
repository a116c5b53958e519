"""The report as one HTML page with inline figures, images and style; it loads nothing from elsewhere.

What a reader asks first stands first: what is deployed in a sentence, one figure, and the commands. Then how sure that is,
which inputs get what, which classes lose to the float network, and where the cost goes. Everything else is folded.
"""

from html import escape
from string import Template

from quee.report import Results, sections
from quee.report.against_float import AgainstFloat, against_float
from quee.report.captions import CAPTIONS
from quee.report.executed import executed_section
from quee.report.figures import FIGURES
from quee.report.inputs import Inputs, where_cost_goes, which_inputs
from quee.report.markup import drawing, folded, inlined
from quee.report.parts import parts
from quee.report.policies import chosen_policies
from quee.report.sentence import Summary
from quee.report.theme import document

STAGES = Template("""<p id="stages-away">Run times are not part of the results: this table is filled from the run records where
the pipeline ran, and this copy of the page is away from them.</p>
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


def build_page(
    results: Results,
    figures: dict[str, str],
    summary: Summary,
    bundle: str,
    inputs: Inputs | None = None,
    against: AgainstFloat | None = None,
    records: str | None = None,
) -> str:
    """The page for results and their figures (SVG text by name).

    `bundle` is the folder to deploy. `records` is the path, relative to the page, of a script that calls `queeStages` with the
    time of each stage.
    """
    said = results.measure.said

    def drawn(section: str) -> list[str]:
        """The figures that follow a section, each with its numbers."""
        found = []
        for figure in FIGURES:
            if figure.after == section and figure.name in figures:
                title, caption = figure.words(results)
                text = drawing(figures[figure.name], title, caption) + (figure.table(results) if figure.table else "")
                found.append(folded(said(title), said(text), figure.name))
        return found

    _, caption = CAPTIONS["curves"]
    more = (summary.nearest(), summary.said_of_labelled(), summary.instead())
    first = (
        f'<header><p class="kicker">{escape(results.title)}, as deployed</p>'
        f"<h1>{_words(summary.sentence())}</h1>{''.join(f'<p>{_words(text)}</p>' for text in more if text)}</header>\n"
        f'<div class="first"><figure id="curves">\n{inlined(figures["curves"])}'
        f"<figcaption>{said(escape(caption))}</figcaption></figure>\n"
        f'<section id="deploy">{sections.deployed(summary, bundle, inputs.asked if inputs else None)}</section></div>'
    )
    beside = against_float(inputs, against, results.measure)
    which, where = which_inputs(inputs, results.measure), where_cost_goes(inputs)
    stages = STAGES.substitute(records=escape(records)) if records else ""
    body = [
        first,
        f'<h2 id="sure">How sure that is</h2>{said(sections.sure(results, summary))}',
        *drawn("sure"),
        f'<h2 id="inputs">Which inputs get what</h2>{which}' if which else "",
        *drawn("inputs"),
        f'<h2 id="float">Beside the float network</h2>{said(beside)}' if beside else "",
        f'<h2 id="cost">Where the computation goes</h2>{where}' if where else "",
        '<h2 id="more">Everything else</h2>',
        folded("The data, the network, and how it was tested", sections.introduction(results), "data"),
        folded("Every comparison in words", said(sections.findings(results)), "findings"),
        folded("The policy by budget", said(chosen_policies(results)), "policies"),
        *drawn("findings"),
        folded(said("Accuracy at budgets"), said(sections.budgets(results)), "budgets"),
        folded("Accuracy on labelled images", sections.labelled(results), "labelled"),
        folded(said("What float accuracy costs"), said(sections.savings(results)), "savings"),
        *drawn("savings"),
        folded("Every method", said(sections.methods(results)), "methods"),
        folded("Executed", said(executed_section(results.executed)), "executed"),
        *drawn("executed"),
        folded("Precisions, tree, gates and exit heads", said(parts(results)), "parts"),
        folded("Time of the stages", stages, "stages"),
        folded("Lineage", _lineage(results), "lineage"),
    ]
    page = "\n".join(part for part in body if part)
    return document(results.title, page)


def _words(text: str) -> str:
    """Text as HTML; no line ends between a number and its per cent sign."""
    return escape(text).replace(" %", "&nbsp;%")


def _lineage(results: Results) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(digest)}</code></td></tr>"
        for name, digest in sorted(results.digests.items())
    )
    return (
        "<p>This page was made from these files alone (SHA-256) and from those that they name: dataset.json the images, "
        "tree.json the cache. The same files give "
        "the same page, byte for byte.</p>"
        f'<div class="scroll"><table class="digests"><tbody>{rows}</tbody></table></div>'
    )
