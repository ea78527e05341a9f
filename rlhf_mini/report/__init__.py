"""The report of a run, one HTML page."""

from rlhf_mini.report.report import write_report

__all__ = ["write_report"]
