"""The page of a study: answers in sentences first, then the figures, in one file that works without a network."""

from sj_cka.report.edition import Edition, write_csv
from sj_cka.report.page import Answer, Page, Verdict, answer, why_no_png, write_page, write_pngs

__all__ = [
    "Answer",
    "Edition",
    "Page",
    "Verdict",
    "answer",
    "why_no_png",
    "write_csv",
    "write_page",
    "write_pngs",
]
