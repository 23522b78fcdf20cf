"""Comparison: guides and objectives on one model, on equal terms, as a table, pictures and a page."""

from pyrolvm.comparison.compare import compare
from pyrolvm.comparison.page import write_page
from pyrolvm.comparison.result import Comparison, Settings
from pyrolvm.comparison.summary import Verdict

__all__ = ["Comparison", "Settings", "Verdict", "compare", "write_page"]
