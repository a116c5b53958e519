"""Every command that README.md, docs/ and the headers of experiments tell the reader to type."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = r"(?:(?:quee|make|dvc|prefect|mlflow|python -m) \S|python benchmarks/\S).*"
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:nice |time )?{PROGRAMS}")
SPAN = re.compile(r"`([^`\n]+)`")
SHELLS = {"", "sh", "bash", "console"}


def documented() -> dict[str, str]:
    """Commands as written, each with the first page that has it."""
    found: dict[str, str] = {}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for text in commands(page.read_text(encoding="utf-8")):
            found.setdefault(text, page.name)
    for file in sorted((ROOT / "experiments").glob("*.yaml")):
        for text in header_commands(file.read_text(encoding="utf-8")):
            found.setdefault(text, file.name)
    return found


def header_commands(text: str) -> Iterator[str]:
    """Commands of an experiment's header: what follows `Command:` or `Commands:`, and comments indented below it."""
    told = False
    for line in text.splitlines():
        words = line.removeprefix("#")
        if not line.startswith("#") or (told and not words.startswith("  ")):
            told = False
        if (start := re.match(r" Commands?: ", words)) or told:
            told = True
            yield re.sub(r"\s+#\s.*$|\s\s+\(.*\)$", "", words[start.end() if start else 0 :]).strip()


def commands(text: str) -> Iterator[str]:
    """Commands of a page of Markdown: lines of shell blocks and of indented blocks, and code in sentences."""
    block: str | None = None
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            block = None if block is not None else line.strip().removeprefix("```").strip()
            continue
        if block is not None:
            spans = [line.strip()] if block in SHELLS else []
        elif line.startswith("    "):
            spans = [line.strip()]
        else:
            spans = [span.strip() for span in SPAN.findall(line.replace("\\|", "|"))]
        for span in spans:
            plain = re.sub(r"\s+#\s.*$", "", span.removeprefix("$ ")).strip()
            if COMMAND.fullmatch(plain):
                yield plain
