"""Which keys of metrics.json the documentation describes."""

from __future__ import annotations

import re
from pathlib import Path

from multiscale.report.tables import flat

PAGE = Path(__file__).resolve().parents[1] / "docs" / "run-directory.md"


def described_keys() -> list[re.Pattern[str]]:
    """The dotted keys in the first column of the page's tables; a part in capitals stands for any name."""
    page = PAGE.read_text(encoding="utf-8").partition("## metrics.json")[2]
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    keys = [key for cell in cells for key in re.findall(r"`([^`]+)`", cell)]
    assert len(keys) == len(set(keys)), "described twice"
    return [
        re.compile(r"\.".join(r"[^.]+" if part.isupper() else re.escape(part) for part in key.split(".")))
        for key in keys
    ]


def undescribed(metrics: dict) -> list[str]:
    """Keys of a metrics.json that the page does not describe."""
    known = described_keys()

    def is_known(key: str) -> bool:
        plain = re.sub(r"\[\d+\]", "", key.removesuffix("."))  # of a list of objects, each alike
        # What a run measures at full scale has the keys of `multiscale verify`.
        names = plain, plain.replace("full_scale.", "verify.", 1)
        return any(k.fullmatch(name) for k in known for name in names)

    return [key for key in flat(metrics) if not is_known(key)]
