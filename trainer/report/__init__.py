"""Compares runs from their `metrics.jsonl`: a table for the terminal, one HTML file that opens offline, PNGs beside it."""

from __future__ import annotations

from trainer.report.comparison import Comparison, Method, Trained, compare
from trainer.report.page import write_report
from trainer.report.table import text_table

__all__ = ["Comparison", "Method", "Trained", "compare", "text_table", "write_report"]
