"""`hf-immunize push`: what cannot be pushed says so."""

from __future__ import annotations

from commands import error_of
from huggingface_hub import constants


def test_a_push_that_cannot_be(released, tmp_path, capsys, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    capsys.readouterr()
    assert "hf auth login" in error_of(capsys, ["push", str(released), "--repo_id", "me/model"])
    assert "push needs --repo_id" in error_of(capsys, ["push", str(released)])
    assert "There is no folder" in error_of(capsys, ["push", str(tmp_path / "none"), "--repo_id", "me/model"])
