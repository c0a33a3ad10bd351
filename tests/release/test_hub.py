"""Pushing and loading through the real huggingface_hub client against a Hub on the loopback interface."""

import hashlib
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml
from hub_client import ClientError, HubClient
from hub_server import READ_TOKEN, TOKEN, HubServer
from safetensors.torch import load_file, save_file
from samples import sample_record, tiny_timm, tiny_vit

from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.release.files import checksums
from hf_immunize.release.folder import save_immunized
from hf_immunize.release.record import ImmunizationRecord

PUSH = "from hf_immunize.release.hub import push_to_hub, resolve_revision\n"
LOGITS = """
import torch
torch.manual_seed(1)
pixels = torch.rand(2, 3, {size}, {size})
with torch.inference_mode():
    out = model(pixels)
result = (out if torch.is_tensor(out) else out.logits).tolist()
"""


@pytest.fixture(scope="module")
def hub():
    server = HubServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def clients(hub, tmp_path_factory):
    """Two processes with caches of their own: one with a token, one without."""
    root = tmp_path_factory.mktemp("clients")
    started = {name: HubClient(hub.url, root / name, token) for name, token in (("writer", TOKEN), ("nobody", None))}
    yield started
    for client in started.values():
        client.close()


@pytest.fixture
def writer(clients):
    return clients["writer"]


@pytest.fixture
def nobody(clients):
    return clients["nobody"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model, processor = tiny_vit()
    return save_immunized(tmp_path_factory.mktemp("saved") / "release", model, sample_record(), processor)


@pytest.fixture
def release(saved, tmp_path):
    """A whole folder of a transformers model, for one test to change."""
    return Path(shutil.copytree(saved, tmp_path / "release"))


def logits_of(model, size):
    space = {"model": model}
    exec(LOGITS.format(size=size), space)
    return space["result"]


def push(client, folder, repo_id, **options):
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    return client.run(
        PUSH
        + f"info = push_to_hub({str(folder)!r}, {repo_id!r}{given})\nresult = [info.oid, info.commit_url, info.pr_url]"
    )


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


def test_a_transformers_model_comes_back_from_an_empty_cache(writer, nobody, release):
    oid, *_ = push(writer, release, "me/vit")
    model, _ = tiny_vit()
    loaded = nobody.run(
        "from transformers import AutoModelForImageClassification\n"
        "model = AutoModelForImageClassification.from_pretrained('me/vit')\n" + LOGITS.format(size=32)
    )
    assert loaded == logits_of(model, 32)
    answer = nobody.run(
        "from PIL import Image\nfrom transformers import pipeline\n"
        "found = pipeline('image-classification', model='me/vit')(Image.new('RGB', (50, 40), 'red'))\n"
        "result = sorted(one['label'] for one in found)"
    )
    assert answer == ["crow", "owl", "wren"]
    found = nobody.run(
        "from hf_immunize.models.loading import load_model\nfound = load_model('me/vit@main')\n"
        "result = [found.name, found.revision, found.kind, found.library, found.new_head, found.license]"
    )
    assert found == ["me/vit", oid, "hub", "transformers", False, "apache-2.0"]


def test_a_timm_module_comes_back_in_timm_and_in_transformers(hub, writer, nobody, tmp_path):
    model = tiny_timm()
    record = sample_record(library="timm", architecture="test_resnet")
    folder = save_immunized(tmp_path / "release", model, record, TimmImageProcessor.from_model(model, 64))
    before = len(hub.commits())
    oid, *_ = push(writer, folder, "me/resnet")
    assert len(hub.commits()) == before + 1
    wanted = logits_of(model, 64)
    names = {
        "timm": "import timm\nmodel = timm.create_model('hf-hub:me/resnet', pretrained=True).eval()\n",
        "pinned": f"import timm\nmodel = timm.create_model('hf-hub:me/resnet@{oid}', pretrained=True).eval()\n",
        "transformers": "from transformers import AutoModelForImageClassification\n"
        "model = AutoModelForImageClassification.from_pretrained('me/resnet')\n",
        "here": "from hf_immunize.models.loading import load_model\nmodel = load_model('me/resnet').model\n",
        "prefix": "from hf_immunize.models.loading import load_model\nmodel = load_model('hf-hub:me/resnet').model\n",
    }
    for name, code in names.items():
        assert nobody.run(code + LOGITS.format(size=64)) == wanted, name
    size = nobody.run(
        "import timm\nmodel = timm.create_model('hf-hub:me/resnet', pretrained=True)\n"
        "result = [timm.data.resolve_model_data_config(model)['input_size'], model.pretrained_cfg['label_names']]"
    )
    assert size == [[3, 64, 64], ["crow", "owl", "wren"]]
    label = nobody.run(
        "from PIL import Image\nfrom transformers import pipeline\n"
        "result = pipeline('image-classification', model='me/resnet')(Image.new('RGB', (50, 40)))[0]['label']"
    )
    assert label in ("crow", "owl", "wren")


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


def test_a_pinned_revision_stays_what_it_was(hub, writer, nobody, release, tmp_path):
    first, *_ = push(writer, release, "me/moving")
    other, processor = tiny_vit(("a", "b"))
    newer = save_immunized(tmp_path / "newer", other, sample_record(), processor)
    second, *_ = push(writer, newer, "me/moving")
    assert first != second
    code = (
        "from hf_immunize.models.loading import load_model\nresult = load_model('me/moving@{}').model.config.num_labels"
    )
    assert nobody.run(code.format(first)) == 3
    assert nobody.run(code.format("main")) == 2
    resolve = PUSH + "result = [resolve_revision('me/moving'), resolve_revision('me/moving', {!r})]"
    assert nobody.run(resolve.format(first)) == [second, first]


def test_a_repush_keeps_the_authors_words_and_drops_stale_files(hub, writer, release, tmp_path):
    push(writer, release, "me/again")
    repo = hub.repos["me/again"]
    files = dict(repo.files)
    card = files["README.md"].decode()
    files["README.md"] = card.replace("---\n\n<!--", "---\n\nWords from the web page.\n\n<!--", 1).encode()
    files |= {"model-00001-of-00002.safetensors": b"stale", "LICENSE": b"mine", "notes/a.txt": b"mine"}
    repo.commit("main", files, "edited on the web page")
    local = (release / "README.md").read_text(encoding="utf-8")
    (release / "README.md").write_text(local + "\nWords from the folder.\n", encoding="utf-8")
    (release / "figures" / "mine.png").write_bytes(b"png")
    before = len(hub.commits())
    push(writer, release, "me/again")
    assert len(hub.commits()) == before + 1
    after = repo.files["README.md"].decode()
    assert "Words from the web page." in after
    assert "Words from the folder." in after
    assert after.count("<!-- hf-immunize: start") == 1
    assert "model-00001-of-00002.safetensors" not in repo.files
    assert {"LICENSE", "notes/a.txt", "figures/mine.png"} <= set(repo.files)


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


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("me/nothing-here", "ValueError", "no me/nothing-here on .* misspelt, or it is private"),
        ("me/gated", "ValueError", "gated: accept its terms"),
        ("me/empty", "ValueError", r"holds no config\.json"),
        ("me/empty@v9", "ValueError", "has no revision 'v9'"),
        ("me/empty@", "ValueError", "names no revision"),
        ("me/pickled", "ValueError", "no weights in safetensors"),
        ("me/timm-pickled", "ValueError", "no weights in safetensors"),
        ("me/text", "ValueError", "no image classifier"),
        ("a/b/c", "FileNotFoundError", "no folder a/b/c"),
        ("hf-hub:me/text", "ValueError", "Leave the hf-hub: in front of it away"),
    ],
)
def test_a_name_that_cannot_be_loaded_says_what_to_do(hub, nobody, name, kind, message):
    if "me/gated" not in hub.repos:
        config = json.dumps({"architectures": ["ViTForImageClassification"], "model_type": "vit"}).encode()
        hub.create("me/gated", {"config.json": b"{}"}, gated=True)
        hub.create("me/empty")
        hub.create("me/pickled", {"config.json": config, "pytorch_model.bin": b"pickle"})
        hub.create("me/text", {"config.json": b'{"model_type": "bert", "architectures": ["BertModel"]}'})
        timm_config = json.dumps({"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": {}}).encode()
        hub.create("me/timm-pickled", {"config.json": timm_config, "pytorch_model.bin": b"pickle"})
    with pytest.raises(ClientError, match=message) as caught:
        nobody.run(f"from hf_immunize.models.loading import load_model\nload_model({name!r})")
    assert kind in caught.value.bases


def test_without_network_the_error_is_about_the_network_and_comes_at_once(hub, writer, release):
    load = "from hf_immunize.models.loading import load_model\nload_model('me/unknown')"
    with hub.down():
        for call in (
            lambda: writer.run(load),
            lambda: push(writer, release, "me/unknown"),
            lambda: writer.run(PUSH + "resolve_revision('me/unknown', 'main')"),
        ):
            start = time.monotonic()
            with pytest.raises(ClientError, match="could not be reached for me/unknown") as caught:
                call()
            assert "ConnectionError" in caught.value.bases
            assert time.monotonic() - start < 10


def test_without_network_a_cached_model_still_loads(hub, writer, release):
    oid, *_ = push(writer, release, "me/cached")
    code = "from hf_immunize.models.loading import load_model\nfound = load_model('me/cached')\nresult = found.revision"
    assert writer.run(code) == oid
    with hub.down():
        assert writer.run(code) == oid


def test_an_edit_during_a_push_is_not_written_over(hub, writer, release):
    push(writer, release, "me/race")
    repo = hub.repos["me/race"]
    (release / "LICENSE").write_text("new")
    hub.before_commit = lambda: repo.commit("main", dict(repo.files), "somebody else's")
    with pytest.raises(ClientError, match="changed while this push was being prepared") as caught:
        push(writer, release, "me/race")
    assert "ValueError" in caught.value.bases
    assert repo.messages[-1] == "somebody else's"
    push(writer, release, "me/race")
    assert "LICENSE" in repo.files


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
    assert len(hub.commits()) == before + 1
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


def test_words_taken_out_stay_out_and_none_double(hub, writer, release):
    path = release / "README.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}\nFirst.\n\nSecond.\n", encoding="utf-8")
    push(writer, release, "me/words")
    repo = hub.repos["me/words"]
    # On the web page one paragraph goes, and another comes.
    web = repo.files["README.md"].decode().replace("First.\n\n", "") + "\nThird.\n"
    repo.commit("main", repo.files | {"README.md": web.encode()}, "on the web page")
    path.write_text(path.read_text(encoding="utf-8").replace("Second.", "Second, better."), encoding="utf-8")
    push(writer, release, "me/words")
    card = repo.files["README.md"].decode()
    assert "First." not in card
    assert [card.count(one) for one in ("Second, better.", "Third.", "Second.")] == [1, 1, 0]
    # The folder has the words of the web page now, and pushing again changes nothing.
    assert "Third." in path.read_text(encoding="utf-8")
    commits = len(repo.messages)
    push(writer, release, "me/words")
    assert len(repo.messages) == commits
    assert ".cache/hf_immunize/pushed.json" not in repo.files


def test_names_that_only_look_like_the_librarys_stay_on_the_hub_and_at_home(hub, writer, release):
    push(writer, release, "me/names")
    repo = hub.repos["me/names"]
    mine = {"model_fp16.safetensors": b"mine", "model-ema.safetensors": b"mine"}
    repo.commit("main", repo.files | mine, "mine")
    (release / "model-backup.safetensors").write_bytes(b"private")
    (release / "LICENSE").write_text("new")
    push(writer, release, "me/names")
    assert {name: repo.files[name] for name in mine} == mine
    assert "model-backup.safetensors" not in repo.files


def test_the_hubs_licence_stands(hub, writer, release):
    push(writer, release, "me/licence")
    repo = hub.repos["me/licence"]
    web = repo.files["README.md"].decode().replace("license: apache-2.0", "license: mit")
    repo.commit("main", repo.files | {"README.md": web.encode()}, "mit")
    (release / "LICENSE").write_text("MIT")
    push(writer, release, "me/licence")
    assert yaml.safe_load(repo.files["README.md"].decode().split("---\n")[1])["license"] == "mit"


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
