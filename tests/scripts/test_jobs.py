"""Runs in processes: one that fails takes none of the others along, and is told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_what_finished_is_kept_where_another_fails(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from paper.jobs import keep_each

    kept = {}
    with ThreadPoolExecutor(1) as pool:
        waiting = {pool.submit(lambda share=share: 1 / share): str(share) for share in (0, 2, 4)}
        with pytest.raises(SystemExit, match=r"Not there: 0\."):
            keep_each(waiting, "shares", kept.__setitem__)
        assert kept == {"2": 0.5, "4": 0.25}
        assert "ZeroDivisionError" in capsys.readouterr().err
        keep_each({pool.submit(lambda: 1.0): "1"}, "shares", kept.__setitem__)
    assert kept["1"] == 1.0
