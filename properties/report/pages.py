"""The pages: one HTML file that needs nothing else, the same in markdown for a pull request, and the state as JSON."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import matrix, near, power_plots, schema, summary, tensors, wording
from .costs import costs
from .figures import figures
from .machine_code import machine_code
from .mathml import formula
from .power import power
from .sections import sections
from .soundness import soundness
from .speed import in_words, speed
from .state import State, environment

TEMPLATES = Path(__file__).with_name("templates")
MAX_SCRIPTS = 20  # in markdown, which pull requests cut off at 65 536 characters


def markdown_text(text) -> str:
    """Text that markdown and a table in it show as it is: nothing in it becomes markup."""
    text = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#@])", r"\\\1", text).replace("\n", " ")


def code_span(text) -> str:
    """A name in code style; one with a backtick or a line break is plain text instead."""
    text = str(text)
    return markdown_text(text) if re.search(r"[`|\n]", text) else f"`{text}`"


def fenced(code: str, language: str = "python") -> str:
    """A code block whose fence is longer than any run of backticks in the code."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"


def web_address(link) -> str | None:
    """The link of an expected failure where it is one to the web; anything else is shown as text only."""
    return link if isinstance(link, str) and re.match(r"https?://", link) else None


@cache
def _environment() -> Environment:
    environment_ = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: not (name or "").endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment_.filters |= {
        "count": wording.count, "percent": wording.percent, "duration": wording.duration, "plural": wording.plural,
        "full_stop": wording.full_stop, "title_of": wording.title, "listing": wording.listing, "formula": formula,
        "short_dtype": schema.short_dtype, "examples": matrix.examples, "describe": matrix.describe,
        "cell_anchor": matrix.cell_anchor, "number": schema.number, "parts": tensors.parts,
        "as_text": tensors.as_text, "short_number": tensors.short_number,
        "web_address": web_address, "rate": in_words, "environment": environment, "md": markdown_text,
        "code": code_span, "fenced": fenced, "clause": near.clause, "thread": near.thread,
        "probability": near.probability,
        "claim_anchor": lambda claim: wording.anchor("claim-", claim["claim"]),
        "file_anchor": lambda file: wording.anchor("file-", file),
        "breakable": lambda name: re.split(r"(?<=[._])", name),
    }  # fmt: skip
    environment_.globals |= {
        "verdicts": schema.VERDICTS, "share": wording.share, "missed": wording.missed, "colours": power_plots.COLOURS,
        "min_heading": power_plots.MIN_HEADING,
    }  # fmt: skip
    return environment_


@dataclass(frozen=True)
class Sources:
    """What the pages show beside the events, each where it is there: folders of what was measured on GPUs and of what
    was compiled for them, the record of the kill matrix, the file of known bugs, and the summary of the hunt for
    false alarms."""

    measured: Path | None = None
    compiled: Path | None = None
    power: Path | None = None
    known: Path | None = None
    soundness: Path | None = None


def _content(state: State, sources: Sources) -> dict:
    """What both pages show."""
    near_bugs, not_read = near.diagnoses(state, sources.known)
    rows = summary.answers(state)
    priorities, table = summary.coverage(rows)
    tally = summary.counts(state.cells)
    return {
        "state": state,
        "tally": tally,
        "words": summary.in_words(tally),
        "legs": summary.leg_counts(state),
        "groups": summary.look_first(state),
        "disagreements": summary.disagreements(state),
        "facts": summary.implementation_facts(state),
        "matrix": matrix.matrix(state),
        "answers": rows,
        "standard": summary.STANDARD_CONVENTIONS,
        "priorities": priorities,
        "coverage": table,
        "counted_costs": costs(state.cells),
        "speed": speed(sources.measured),
        "machine_code": machine_code(sources.compiled),
        "power": power(sources.power),
        "soundness": soundness(sources.soundness),
        "diagnoses": near_bugs,
        "known_not_read": not_read,
        "reliability": near.reliability(sources.known),
    }


def html(state: State, *sources: Path | None) -> str:
    """``index.html``; the sources are those of `Sources`, in order."""
    drawn, no_figures = figures(state.cells)
    template = _environment().get_template("index.html.j2")
    content = _content(state, Sources(*sources))
    return template.render(**content, files=sections(state), figures=drawn, no_figures=no_figures)


def power_html(state: State, record: Path | None, known: Path | None = None) -> str:
    """``power.html``: the kill matrix, and how reliable diagnosis by the known bugs is."""
    template = _environment().get_template("power.html.j2")
    return template.render(state=state, power=power(record), reliability=near.reliability(known))


def markdown(state: State, *sources: Path | None) -> str:
    """``report.md``; the sources are those of `Sources`, in order."""
    template = _environment().get_template("report.md.j2")
    owners, compact = summary.by_file_and_owner(state)
    open_cells = summary.open_cells(state)
    text = template.render(
        **_content(state, Sources(*sources)), owners=owners, compact=compact, open_cells=open_cells,
        max_scripts=MAX_SCRIPTS,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def as_json(state: State) -> str:
    """``report.json``: the folded state, strict."""
    return json.dumps(schema.strict(summary.as_json(state)), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write(state: State, folder: Path, *, measured: Path | None = None, known: Path | None = None) -> list[Path]:
    """Write the four files into ``folder``, which is made where it is missing, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    record = folder / "power.json"
    sources = state, measured, folder / "compile", record, known, folder / "soundness" / "summary.json"
    pages = {"index.html": html(*sources), "power.html": power_html(state, record, known),
             "report.md": markdown(*sources), "report.json": as_json(state)}  # fmt: skip
    for name, text in pages.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
