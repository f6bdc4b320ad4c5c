"""Writes the cards of the published files again, from reports and records.

Usage: python tflite/write_cards.py [folder]

By default this one. A card says what the report beside its file, the records of
runs and those of exports say; the files themselves are not read.
"""

import json
import sys
from pathlib import Path

from gnsmall_keras.export.card import make_card
from gnsmall_keras.export.tflite import ExportReport
from gnsmall_keras.records.commands import teachers_of
from gnsmall_keras.records.export import ExportRecord
from gnsmall_keras.records.jsonl import scan_lines
from gnsmall_keras.records.run import read_records

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "papermill_runs/index.jsonl"
EXPORTS = ROOT / "papermill_runs/exports.jsonl"


def main():
    """Writes NAME.md beside each NAME.json."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    runs = {run.key: run for run in read_records(RUNS)}
    by_slug = {run.slug: run for run in runs.values()}
    sources = {
        record.sha256: record.run_key
        for _, record in scan_lines(EXPORTS, ExportRecord.from_json)
        if isinstance(record, ExportRecord)
    }
    for path in sorted(folder.glob("*.json")):
        report = ExportReport(**json.loads(path.read_text("utf-8")))
        run = runs[sources[report.sha256]]
        card = make_card(
            report, run, teachers_of(run, by_slug.get), licence="Apache-2.0"
        )
        path.with_suffix(".md").write_text(card, "utf-8")
        print(path.with_suffix(".md"))


if __name__ == "__main__":
    main()
