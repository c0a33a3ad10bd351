"""Pushing through the real huggingface_hub client to a Hub on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest
import torch
import yaml
from hub_client import ClientError
from hub_repos import READ_TOKEN, TOKEN
from pushing import PUSH, push
from safetensors.torch import load_file, save_file

from hf_immunize.release.files import checksums
from hf_immunize.release.record import ImmunizationRecord


def test_a_push_is_one_commit_with_the_whole_folder(hub, writer, release):
    before = len(hub.commits())
    oid, url, _ = push(writer, release, "me/whole")
    assert len(hub.commits()) == before + 1
    repo = hub.repos["me/whole"]
    assert repo.branches["main"] == oid
    assert url.endswith(oid)
    assert set(repo.files) == {
        ".gitattributes",
        ".eval_results/hf_immunize.yaml",
        "README.md",
        "config.json",
        "figures/attacks.png",
        "figures/spectra.png",
        "immunization.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    for name in ("model.safetensors", "immunization.json", "figures/spectra.png"):
        assert repo.files[name] == (release / name).read_bytes()
    card = repo.files["README.md"].decode()
    assert 'model="me/whole"' in card
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["name"] == "whole"
    # The Hub's own check of what was pushed.
    writer.run("from huggingface_hub import ModelCard\nModelCard.load('me/whole').validate()")


def test_a_model_is_pushed_without_a_folder(hub, writer, tmp_path):
    code = PUSH + (
        "from samples import *\nmodel, processor = tiny_vit()\n"
        "result = push_to_hub(model, 'me/direct', record=sample_record(), image_processor=processor).oid"
    )
    before = len(hub.commits())
    assert writer.run(code) == hub.repos["me/direct"].branches["main"]
    assert len(hub.commits()) == before + 1
    with pytest.raises(ClientError, match="pass record="):
        writer.run(PUSH + "from samples import *\npush_to_hub(tiny_vit()[0], 'me/direct')")


def test_only_release_files_go_up(hub, writer, release):
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", ".env"):
        (release / name).write_text("not for others")
    (release / "checkpoint-10").mkdir()
    (release / "checkpoint-10" / "model.safetensors").write_text("not for others")
    (release / "LICENSE").write_text("Apache-2.0")
    push(writer, release, "me/clean")
    pushed = hub.repos["me/clean"].files
    assert "LICENSE" in pushed
    assert not any(b"not for others" in data for data in pushed.values())


@pytest.mark.parametrize("secret", [TOKEN, "hf_" + "Zz9" * 11], ids=["its own", "any other"])
def test_a_token_in_a_file_stops_the_push(hub, writer, release, secret):
    config = json.loads((release / "config.json").read_text(encoding="utf-8")) | {"note": f"x{secret} "[1:]}
    (release / "config.json").write_text(json.dumps(config), encoding="utf-8")
    before = len(hub.log)
    with pytest.raises(ClientError, match=r"config\.json holds a Hub token") as caught:
        push(writer, release, "me/secret")
    assert "ValueError" in caught.value.bases
    assert secret not in str(caught.value)
    assert len(hub.log) == before
    assert "me/secret" not in hub.repos


def test_private_branch_and_pull_request(hub, writer, nobody, release):
    push(writer, release, "me/hidden", private=True)
    assert hub.repos["me/hidden"].private
    with pytest.raises(ClientError, match="misspelt, or it is private") as caught:
        nobody.run("from hf_immunize.models.loading import load_model\nload_model('me/hidden')")
    assert "ValueError" in caught.value.bases
    main = hub.repos["me/hidden"].branches["main"]
    (release / "LICENSE").write_text("new")
    oid, *_ = push(writer, release, "me/hidden", revision="v2")
    assert hub.repos["me/hidden"].branches == {"main": main, "v2": oid}
    (release / "LICENSE").write_text("newer")
    oid, _, pull = push(writer, release, "me/hidden", create_pr=True)
    assert hub.repos["me/hidden"].branches["main"] == main
    assert hub.repos["me/hidden"].branches["refs/pr/1"] == oid
    assert pull.endswith("/discussions/1")


@pytest.mark.parametrize(
    ("client", "repo_id", "token", "message"),
    [
        ("nobody", "me/x", None, "No Hub token.*hf auth login"),
        ("nobody", "me/x", "hf_wrong", "No valid Hub token.*hf auth login"),
        ("nobody", "me/x", READ_TOKEN, "may not write to me/x"),
        ("writer", "somebody-else/x", None, "may not write to somebody-else/x"),
        ("writer", "not a/valid/id", None, "not a valid Hub id"),
    ],
)
def test_a_push_that_cannot_be_says_what_to_do(hub, clients, release, client, repo_id, token, message):
    before = len(hub.commits())
    with pytest.raises(ClientError, match=message) as caught:
        push(clients[client], release, repo_id, token=token)
    assert "ValueError" in caught.value.bases
    assert len(hub.commits()) == before


def test_without_network_the_error_is_about_the_network_and_comes_at_once(hub, writer, release):
    load = "from hf_immunize.models.loading import load_model\nload_model('me/unknown')"
    with hub.down():
        for call in (lambda: writer.run(load), lambda: push(writer, release, "me/unknown")):
            start = time.monotonic()
            with pytest.raises(ClientError, match="could not be reached for me/unknown") as caught:
                call()
            assert "ConnectionError" in caught.value.bases
            assert time.monotonic() - start < 10


TRAIN_AND_PUSH = """
import tempfile
import torch
from samples import tiny_vit
from hf_immunize import ImmunizationArguments, ImmunizationTrainer
model, processor = tiny_vit()
torch.manual_seed(1)
def images(count):
    return [{{"pixel_values": torch.randn(3, 32, 32), "labels": row % 2}} for row in range(count)]
primary, harmful, held_out = images(64), images(48), images(32)
with tempfile.TemporaryDirectory() as folder:
    arguments = ImmunizationArguments(
        output_dir=folder, max_steps=3, per_device_train_batch_size=16, use_cpu=True, report_to="none",
        disable_tqdm=True, save_strategy="no", hub_model_id={repo_id!r}, dataloader_pin_memory=False,
    )
    trainer = ImmunizationTrainer(
        model, arguments, train_dataset=primary, harmful_dataset=harmful, eval_dataset=held_out,
        processing_class=processor, harmful_eval_dataset=None,
    )
    trainer.train()
    try:
        trainer.push_to_hub(license="mit")
    except ValueError as error:
        # No attacker is judged on rows that it, or the training, was fitted on.
        refused = str(error)
    trainer.harmful_eval_dataset = images(24)
    commit = trainer.push_to_hub(license="mit")
model.eval()
pixels = torch.stack([row['pixel_values'] for row in primary[:2]])
with torch.inference_mode():
    result = [commit.oid, model(pixels).logits.tolist(), pixels.tolist(), refused]
"""


def test_a_trainer_pushes_a_measured_release_in_one_commit(hub, clients):
    before = len(hub.commits())
    oid, logits, pixels, refused = clients["writer"].run(TRAIN_AND_PUSH.format(repo_id="me/from-trainer"))
    # No commit of the Hub has θ0, so that it goes up beside: to a branch of its own.
    assert len(hub.commits()) == before + 2
    repo = hub.repos["me/from-trainer"]
    assert "model.safetensors" in repo.commits[repo.branches["initial"]]
    assert "the trainer needs harmful_eval_dataset" in refused
    assert hub.repos["me/from-trainer"].branches["main"] == oid
    assert not any("training_args" in name or "optimizer" in name for name in hub.repos["me/from-trainer"].files)
    card, record, found = clients["nobody"].run(
        "import torch\n"
        "from huggingface_hub import hf_hub_download\n"
        "from transformers import AutoModelForImageClassification\n"
        "names = ('README.md', 'immunization.json')\n"
        "files = [open(hf_hub_download('me/from-trainer', name)).read() for name in names]\n"
        "model = AutoModelForImageClassification.from_pretrained('me/from-trainer').eval()\n"
        "with torch.inference_mode():\n"
        f"    logits = model(torch.tensor({pixels!r})).logits.tolist()\n"
        "result = [*files, logits]"
    )
    assert found == logits
    values = json.loads(record)
    assert values["training"]["steps"] == 3
    assert values["license"] == "mit"
    assert values["results"]["rir"]["immunized"]["n_harmful"] == 24
    assert "is held back while its own task stays as good" in card


@pytest.mark.parametrize("how", ["in parts", "in one piece", "by .gitattributes"])
def test_large_files_go_through_lfs_and_come_back(hub, writer, nobody, release, how):
    repo_id = f"me/lfs-{how.replace(' ', '-').replace('.', '')}"
    if how == "by .gitattributes":
        hub.create(repo_id).commits[hub.repos[repo_id].branches["main"]][".gitattributes"] = (
            b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        )
    else:
        weights = load_file(release / "model.safetensors")
        # What no layer takes is no part of the model, and large.
        with_large_weights(release, weights)
    hub.part_size = 3 * 2**20 if how == "in parts" else 2**30
    before = len(hub.commits())
    push(writer, release, repo_id)
    assert len(hub.commits()) == before + 1
    data = (release / "model.safetensors").read_bytes()
    assert hub.repos[repo_id].files["model.safetensors"] == data
    assert hashlib.sha256(data).hexdigest() in hub.lfs
    path = nobody.run(
        f"from huggingface_hub import hf_hub_download\nresult = hf_hub_download({repo_id!r}, 'model.safetensors')"
    )
    assert Path(path).read_bytes() == data


def with_large_weights(release, weights):
    weights["large"] = torch.arange(3 * 2**20, dtype=torch.float32)
    save_file(weights, release / "model.safetensors", metadata={"format": "pt"})
    record = ImmunizationRecord.load(release)
    record.files = checksums(release)
    record.save(release)
