"""The report: event files in, pages out. Nothing here runs a check or knows a claim.

``python -m properties.report`` folds ``reports/events/*.jsonl`` to their current state and writes ``index.html``,
``report.md`` and ``report.json`` beside them.
"""
