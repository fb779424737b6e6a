"""Tables of a study as CSV files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sj_cka.disk import whole


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Writes a table with six decimals; an older file stays whole until the new one is."""
    with whole(path) as file:
        table.to_csv(file, index=False, float_format="%.6f", lineterminator="\n")
    return path
