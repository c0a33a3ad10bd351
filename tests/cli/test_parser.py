"""The parser of a verb: a short help with every default, and options back as their dataclass."""

from __future__ import annotations

import pytest

from hf_immunize.cli.config import parse
from hf_immunize.cli.gallery import parser as gallery_parser
from hf_immunize.cli.main import VERBS, main
from hf_immunize.cli.options import TrainOptions
from hf_immunize.cli.train import parser as train_parser
from hf_immunize.objectives.registry import OBJECTIVES


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_every_option_once_with_its_default(capsys, verb):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: hf-immunize {verb}" in out
    assert "--config" in out
    assert "--json" in out
    assert "-split" not in out
    if verb in ("train", "quickstart"):
        assert f"{{{','.join(OBJECTIVES)}}}" in out
        assert "(default: 0.0005)" in out
        assert "--neftune_noise_alpha" not in out
        with pytest.raises(SystemExit):
            main([verb, "--help_all"])
        assert "--neftune_noise_alpha" in capsys.readouterr().out
    if verb in ("train", "attack", "quickstart"):
        assert "all, probes, finetuning, thorough, gd, " in " ".join(out.split()) or verb == "quickstart"


def test_options_come_back_as_their_dataclass_with_changes_over_them():
    own = train_parser()
    options = parse(own, ["--output_dir", "out", "--new_head", "--fit_steps", "7"])
    found = own.of(TrainOptions, options, fit_steps=9)
    assert isinstance(found, TrainOptions)
    assert (found.new_head, found.fit_steps, found.control) == (True, 9, True)


def test_a_list_goes_on_where_its_option_is_given_again(tmp_path):
    words = ["--attackers", "ridge", "--attackers", "gd", "lora", "--keep", "initial", "--keep", "control"]
    options = parse(train_parser(), words)
    assert options.attackers == ["ridge", "gd", "lora"]
    assert options.keep == ["initial", "control"]
    # The first takes the place of the default, also where it is just like it, and of what a file says.
    assert parse(train_parser(), []).attackers == ["probes"]
    assert parse(train_parser(), ["--attackers", "probes", "--attackers", "lora"]).attackers == ["probes", "lora"]
    (tmp_path / "run.yaml").write_text("attackers: [ridge]\n")
    config = ["--config", str(tmp_path / "run.yaml")]
    assert parse(train_parser(), config).attackers == ["ridge"]
    assert parse(train_parser(), [*config, "--attackers", "gd", "--attackers", "lora"]).attackers == ["gd", "lora"]
    pages = ["a", "c", "--verified", "va", "--verified", "vc"]
    for _ in range(2):
        assert parse(gallery_parser(), pages).verified == ["va", "vc"]
    assert parse(gallery_parser(), []).verified == []


def test_lists_of_a_release_may_be_empty_and_others_may_not(capsys):
    options = parse(train_parser(), ["--keep", "--attackers", "--seed", "1"])
    assert (options.keep, options.attackers) == ([], [])
    for given in (["--trainable"], ["--finetune_steps"]):
        with pytest.raises(SystemExit):
            parse(train_parser(), given)
    assert "expected at least one argument" in capsys.readouterr().err
