"""What was pushed comes back from the Hub, whole and at its commit, or says why not."""

from __future__ import annotations

import json

import pytest
from hub_client import ClientError
from pushing import push
from samples import sample_record, tiny_timm, tiny_vit

from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.release.folder import save_immunized

LOGITS = """
import torch
torch.manual_seed(1)
pixels = torch.rand(2, 3, {size}, {size})
with torch.inference_mode():
    out = model(pixels)
result = (out if torch.is_tensor(out) else out.logits).tolist()
"""


def logits_of(model, size):
    space = {"model": model}
    exec(LOGITS.format(size=size), space)
    return space["result"]


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


def test_without_network_a_cached_model_still_loads(hub, writer, release):
    oid, *_ = push(writer, release, "me/cached")
    code = "from hf_immunize.models.loading import load_model\nfound = load_model('me/cached')\nresult = found.revision"
    assert writer.run(code) == oid
    with hub.down():
        assert writer.run(code) == oid
