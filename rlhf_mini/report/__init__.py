"""The page that a run leaves behind."""

from rlhf_mini.report.report import write_report

__all__ = ["write_report"]
