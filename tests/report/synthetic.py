"""Event files made by hand: small builders with sensible defaults, and one realistic file with every verdict."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

START = datetime(2025, 3, 1, 9, 0, tzinfo=UTC)
DTYPES = ["float64", "float32", "float16", "bfloat16"]


class Events:
    """The events of one run, in order; ``after`` shifts the run by so many minutes."""

    def __init__(self, run="first", *, after=0, **about):
        self.run, self.now, self.lines = run, START + timedelta(minutes=after), []
        about = {"seed": 7, "examples": 60, "python": "3.11.7", "torch": "2.13.0+cpu", "triton": "3.9.0",
                 "machine": "EPYC, 2 cores", "device": "cpu", "arguments": ["spec"]} | about  # fmt: skip
        self.add("run", **about)

    def add(self, event, **content):
        self.now += timedelta(seconds=1)
        self.lines.append({"event": event, "run": self.run, "time": self.now.isoformat()} | content)
        return self

    def claim(self, claim, **content):
        defaults = {
            "claim": claim, "file": claim.partition("::")[0], "line": 10, "title": f"Title of {claim}.",
            "statement": "", "formula": "a = b",
            "rows": [], "kind": "law", "if_fails": "the maximum is not subtracted", "corrects": [],
            "needs": None, "needs_text": None, "operations": ["softmax"], "has_proof": False, "proof_source": None,
            "source": "def law(impl): ...", "digest": "claim-1",
        }  # fmt: skip
        return self.add("claim", **(defaults | content))

    def implementation(self, name, **content):
        defaults = {
            "implementation": name, "file": f"impls/{name}.py", "operations": ["softmax"], "dtypes": DTYPES,
            "device": "cpu", "note": "", "rounding": "fused", "title": f"What {name} is.", "digest": "impl-1",
            "conventions": {"causal": "bottom-right", "empty_row": "zero"},
        }  # fmt: skip
        return self.add("implementation", **(defaults | content))

    def plan(self, *cells):
        return self.add("plan", cells=list(cells))

    def check(self, cell, verdict="holds", **content):
        """A check by its id; leg, implementation and dtype are taken from it unless given."""
        claim, _, parameters = cell.rstrip("]").partition("[")
        owner, _, dtype = parameters.partition("-")
        leg = owner if owner in ("proof", "exact", "torch") else "implementation"
        own = leg == "implementation"
        defaults = {
            "id": cell, "claim": claim, "leg": leg, "implementation": owner if own else None, "dtype": dtype or None,
            "verdict": verdict, "law": None, "faithful": None, "examples": 60, "unsupported": 0, "excused": 0,
            "discarded": 0, "budget_used": 0.31 if own else None, "budget_at": {"length": 257} if own else None,
            "profile": None, "reach": {}, "seconds": 0.4, "inside": 0.1, "message": "", "note": "", "reason": "",
            "link": None, "counterexample": None,
            "digest": {"claim": "claim-1", "implementation": "impl-1" if own else None},
        }  # fmt: skip
        return self.add("check", **(defaults | content))

    def write(self, folder: Path, *, ending="\n") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.run}.jsonl"
        lines = [json.dumps(line, allow_nan=False) for line in self.lines]
        path.write_text("\n".join(lines) + ending)
        return path


def tensor(values, dtype="float32", **content) -> dict:
    """A tensor as events have it."""
    shape, inner = [], values
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    return {"shape": shape, "dtype": dtype, "values": values} | content


SHIFT, SCALE, BLOCKS, ROWS, VIEWS = (
    "spec/softmax.py::shift_invariance",
    "spec/softmax.py::values",
    "spec/merge.py::block_outputs_add",
    "spec/softmax.py::rows_sum_to_one",
    "spec/views.py::transposing_copies_nothing",
)
WHOLE = "spec/merge.py::merge_equals_whole"

SCRIPT = """import torch
from importlib import import_module

x = torch.tensor([[0.0, 2.0]])
y = import_module("hot").softmax(x)     # <b>not bold</b> & "quoted"
print(y, torch.softmax(x, -1))
"""

UNFAITHFUL = {
    "number": 3,
    "drawn": {"x": tensor([[0.0, 2.0]])},
    "calls": [
        {
            "name": "r1", "call": "softmax(x)", "operation": "softmax", "arguments": {"x": tensor([[0.0, 2.0]])},
            "results": [{
                "name": "p", "got": tensor([[0.26894, 0.73106]]), "expected": tensor([[0.1192, 0.8808]], "float64"),
                "budget": tensor([[1e-7, 4e-7]]), "off_by": 0.14974, "at": [0, 0], "used": 1497400.0,
            }],
        }
    ],
    "relation": None,
    "script": SCRIPT,
}  # fmt: skip

ADDED = {
    "number": 3,
    "drawn": {"q": tensor([0.0]), "k": tensor([[0.0], [0.0]]), "v": tensor([[1.0], [1.0]]), "block": "1"},
    "calls": [],
    "relation": {"text": "sum of the blocks = attention", "left": tensor([[2.0]]), "right": tensor([[1.0]]),
                 "off_by": 1.0, "budget": 1e-15, "at": [0, 0]},
    "script": "print(2)",
}  # fmt: skip


def realistic(folder: Path) -> Path:
    """One run with every verdict but *stale*, three implementations and a small ledger."""
    events = Events("realistic", machine="<EPYC>")
    rows = [("001-097", "true", 1), ("001-115", "false", 1), ("001-116", "conditional", 2), ("002-001", "true", 2),
            ("002-002", "not checkable", 3)]  # fmt: skip
    events.add("ledger", rows=[
        {"row": row, "slug": f"slug.{row}", "note": row[:3], "section": "5.2", "verdict": verdict, "priority": priority}
        for row, verdict, priority in rows
    ])  # fmt: skip
    events.claim(SHIFT, title="Adding one constant to every score of a row leaves its softmax unchanged.",
                 formula=r"\operatorname{softmax}(x + c\mathbf 1) = \operatorname{softmax}(x)", rows=["001-097"],
                 has_proof=True, proof_source="Eq(softmax(x + c), softmax(x))  # x < y")  # fmt: skip
    events.claim(SCALE, line=30, title="Softmax is <exactly> this & nothing else.",
                 formula=r"p_i = \frac{e^{x_i}}{\sum_j e^{x_j}}")  # fmt: skip
    events.claim(ROWS, line=50, kind="condition", needs="no_empty_row", needs_text="every row sees a key",
                 title="Rows sum to one.", rows=["001-116"], formula=r"\sum_j p_{ij} = 1")  # fmt: skip
    events.claim(BLOCKS, kind="refuted", rows=["001-115"], title="Block outputs add up.")
    events.claim(WHOLE, line=40, corrects=[BLOCKS], title="Merging the states of two blocks gives the whole.")
    events.claim(VIEWS, title="Transposing copies nothing.", formula="", operations=[])
    events.implementation("naive")
    events.implementation("hot", title="Divides by 2 <first>.", conventions={"causal": "top-left"})
    events.implementation("fused", dtypes=["float32", "float16"], device="cuda")
    owners = [("naive", DTYPES), ("hot", DTYPES), ("fused", DTYPES[1:3])]
    cells = [f"{claim}[{name}-{dtype}]" for claim in (SHIFT, SCALE, ROWS, WHOLE) for name, dtypes in owners
             for dtype in dtypes]  # fmt: skip
    legs = [f"{SHIFT}[proof]", f"{ROWS}[proof]", f"{VIEWS}[torch]"]
    legs += [f"{claim}[exact]" for claim in (SHIFT, SCALE, ROWS, BLOCKS, WHOLE)]
    events.plan(*legs, *cells)
    events.add("problem", file="my_kernel.py", line=3, claim=None, message="no operation <here>: names must match")
    lengths = {"1": 0.01, "17": 0.2, "257": 0.31}
    profile = {"length": lengths, "head_dim": {"16": 0.1, "64": 0.3}, "magnitude": {"8": 0.3}}
    special = {
        f"{ROWS}[proof]": {"verdict": "not proved", "message": "SymPy raised TypeError"},
        f"{BLOCKS}[exact]": {"verdict": "refuted", "note": "by the 3rd example", "counterexample": ADDED},
        f"{WHOLE}[exact]": {"verdict": "not refuted", "message": "no counterexample in 600 examples"},
        f"{SCALE}[hot-float64]": {
            "verdict": "law fails", "law": False, "faithful": False, "message": "off | by `much`",
        },
        f"{SCALE}[hot-float32]": {
            "verdict": "unfaithful", "law": True, "faithful": False, "budget_used": "inf",
            "message": "softmax is off by 0.15 at (0, 0), budget 1e-7 <script>alert(1)</script>",
            "counterexample": UNFAITHFUL,
        },
        f"{SCALE}[hot-float16]": {"verdict": "crashed", "message": "segmentation fault"},
        f"{SCALE}[hot-bfloat16]": {"verdict": "timed out", "message": "longer than 30 s"},
        f"{WHOLE}[naive-float16]": {
            "verdict": "expected failure", "reason": "overflows from length 2048", "excused": 4,
            "link": "https://github.com/pytorch/pytorch/issues/1",
        },
        f"{WHOLE}[naive-bfloat16]": {"verdict": "error", "message": "the oracle raised"},
        f"{WHOLE}[fused-float32]": {"verdict": "unsupported", "examples": 60, "unsupported": 60, "budget_used": None},
        f"{ROWS}[exact]": {"note": "without it: the 2nd example", "counterexample": ADDED},
    }  # fmt: skip
    for cell in [*legs, *cells]:
        if cell != f"{WHOLE}[fused-float16]":  # planned, never checked
            events.check(cell, **({"profile": profile} | special.get(cell, {})))
    return events.write(folder)
