"""The quickstart in short, and mistakes that come before any work."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from hub_client import HubClient
from hub_repos import TOKEN
from hub_server import HubServer
from packages import needs_images, needs_weights

from hf_immunize import ImmunizationArguments
from hf_immunize.attacks.attacker import probe_names
from hf_immunize.cli.main import main
from hf_immunize.cli.quickstart import quickstart
from hf_immunize.models.packaged import efficientnet_lite0
from hf_immunize.release.certify import certified
from hf_immunize.release.record import ImmunizationRecord


@pytest.mark.parametrize(
    ("primary", "harmful", "message"),
    [
        ((0, 1), (1, 2), r"digits \[1\] are in both tasks"),
        ((0,), (1, 2), "primary_classes must be two or more different digits"),
        ((0, 1), (2, 2), r"harmful_classes must be .* got \[2, 2\]"),
        ((0, 10), (2, 3), "primary_classes must be two or more different digits from 0 to 9"),
        ((0, -1), (2, 3), "primary_classes must be"),
    ],
)
def test_classes_that_cannot_be(tmp_path, primary, harmful, message):
    with pytest.raises(ValueError, match=message):
        quickstart(ImmunizationArguments(output_dir=str(tmp_path / "out")), primary, harmful)


def test_mistakes_come_before_any_work(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert main(["quickstart", "--output_dir", str(tmp_path / "full")]) == 1
    assert "not empty" in capsys.readouterr().err
    with pytest.raises(ValueError, match="in both tasks"):
        quickstart(ImmunizationArguments(output_dir=str(tmp_path / "out")), (0, 1), (1, 2))
    assert main(["quickstart", "--output_dir", str(tmp_path / "out"), "--primary_classes", "4", "5"]) == 1
    assert "The digits [5] are in both tasks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ([], (0.5, 0.1)),
        (["--lambda_harmful", "0.2"], (0.5, 0.2)),
        (["--objective", "simulated_attackers"], (1.0, 1.0)),
    ],
)
def test_its_weights_are_those_of_the_condition_alone(tmp_path, monkeypatch, given, weights):
    class Reached(Exception):
        pass

    seen = []

    def reached(args, *_, **__):
        seen.append((args.lambda_primary, args.lambda_harmful))
        raise Reached

    monkeypatch.setattr("hf_immunize.cli.quickstart.quickstart", reached)
    with pytest.raises(Reached):
        main(["quickstart", "--output_dir", str(tmp_path / "out"), *given])
    assert seen == [weights]


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        (["--push_to_hub"], "hf-immunize push FOLDER"),
        (["--hub_model_id", "me/digits"], "hf-immunize push FOLDER"),
        (["--hub_revision", "try"], "hf-immunize push FOLDER"),
        (["--save_strategy", "steps"], "saves no checkpoints; hf-immunize train does"),
        (["--save_steps", "10"], "saves no checkpoints; hf-immunize train does"),
        (["--resume_from_checkpoint"], "saves no checkpoints; hf-immunize train does"),
    ],
)
def test_options_that_it_does_not_read_are_refused_and_stand_in_no_help(tmp_path, capsys, given, instead):
    assert main(["quickstart", "--output_dir", str(tmp_path / "out"), *given]) == 1
    told = capsys.readouterr().err
    assert f"{given[0]} is not served here" in told
    assert instead in told
    with pytest.raises(SystemExit):
        main(["quickstart", "--help"])
    assert given[0] not in capsys.readouterr().out


def test_its_command_holds_what_a_file_said(tmp_path, monkeypatch):
    class Reached(Exception):
        pass

    seen = []

    def reached(args, *_, command, **__):
        seen.append((command, args.save_strategy.value))
        raise Reached

    monkeypatch.setattr("hf_immunize.cli.quickstart.quickstart", reached)
    (tmp_path / "run.yaml").write_text("max_steps: 7\nlambda_harmful: 0.7\nsave_strategy: no\n")
    with pytest.raises(Reached):
        main(["quickstart", "--output_dir", "out", "--config", str(tmp_path / "run.yaml"), "--seed", "3"])
    command, saved = seen[0]
    assert saved == "no"
    words = command.split()
    assert words[:2] == ["hf-immunize", "quickstart"]
    assert {" ".join(pair) for pair in zip(words[2::2], words[3::2], strict=True)} == {
        "--output_dir out",
        "--max_steps 7",
        "--lambda_harmful 0.7",
        "--seed 3",
    }


@pytest.mark.slow
@needs_weights
@needs_images
def test_the_whole_quickstart_in_short_and_its_claims_from_an_empty_home(tmp_path, capsys):
    given = ["quickstart", "--output_dir", str(tmp_path / "out"), "--max_steps", "60", "--json"]
    assert main([*given, "--keep", "initial", "control"]) == 0
    printed = json.loads(capsys.readouterr().out)
    certified(tmp_path / "out")
    record = ImmunizationRecord.load(tmp_path / "out")
    assert printed["results"] == record.results
    results = record.results
    assert results["primary_accuracy"]["initial"] > 0.9
    assert results["primary_accuracy"]["immunized"] > results["primary_accuracy"]["initial"] - 0.05
    immunized, control = (results["rir"][name]["rir"]["mean"] for name in ("immunized", "control"))
    assert immunized > 3 * control
    assert results["rir"]["immunized"]["protocol"]["group_size"] == 100
    assert set(results["attacks"]["attackers"]) == set(probe_names())
    assert set(results["attacks"]["selectivity"]) >= {"initial", "control", "immunized", "scratch", "cost"}
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert loaded.num_classes == 5
    assert torch.equal(loaded.conv_stem.weight, efficientnet_lite0().conv_stem.weight)
    assert "hf-immunize quickstart" in record.command
    check_from_an_empty_home(tmp_path, loaded)


def check_from_an_empty_home(folder, model):
    """Pushed, loaded by others with the same logits to the bit, and verified, attacks too, from packages alone."""
    hub = HubServer()
    writer, stranger = HubClient(hub.url, folder / "writer", TOKEN), HubClient(hub.url, folder / "stranger")
    try:
        writer.run(f"from hf_immunize import push_to_hub\npush_to_hub({str(folder / 'out')!r}, 'me/digits')")
        pixels = "import torch\npixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))\n"
        space = {}
        exec(pixels, space)
        with torch.inference_mode():
            wanted = model.eval()(space["pixels"]).tolist()
        logits = "with torch.inference_mode():\n    out = model.eval()(pixels)\n"
        logits += "result = (out if torch.is_tensor(out) else out.logits).tolist()"
        for load in (
            "import timm\nmodel = timm.create_model('hf-hub:me/digits', pretrained=True)\n",
            "from transformers import AutoModelForImageClassification\n"
            "model = AutoModelForImageClassification.from_pretrained('me/digits')\n",
        ):
            assert stranger.run(load + pixels + logits) == wanted
        code = "from hf_immunize import verify\nfound = verify('me/digits', attackers=['ridge', 'gd-best'])\n"
        asked = "{one.name: one.status for one in found.claims if one.asked}"
        holds, statuses, text = stranger.run(f"{code}result = [found.holds, {asked}, str(found)]")
        assert holds, text
        assert set(statuses.values()) == {"holds"}
        assert {"ridge regression, immunized", "the card says what the record says"} <= set(statuses)
    finally:
        writer.close()
        stranger.close()
