"""Command lines and the one line that a mistake ends with."""

from __future__ import annotations

import pytest

from hf_immunize.cli.main import main

NAMES = ("class 0", "class 1")


def training(world, output, *more, model="vit", primary="primary", harmful="harmful"):
    given = ["train", "--model", str(world / model), "--primary", str(world / primary)]
    given += ["--harmful", str(world / harmful), "--output_dir", str(output), "--use_cpu"]
    return [*given, "--max_steps", "4", "--batch_size", "8", *more]


def error_of(capsys, given, status=1):
    """The one line that a mistake ends with."""
    if status == 2:
        with pytest.raises(SystemExit) as ended:
            main(given)
        assert ended.value.code == 2
    else:
        assert main(given) == status
    out, err = capsys.readouterr()
    assert out == ""
    return err.strip().splitlines()[-1]
