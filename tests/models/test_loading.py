"""Models by the names users give them, and images of any kind in front of them."""

import pytest
import timm
import torch
from PIL import Image
from samples import sample_record, tiny_timm, tiny_vit
from transformers import AutoModel, AutoModelForImageClassification, ViTModel

from hf_immunize.data.preprocessing import TimmImageProcessor
from hf_immunize.models.class_names import model_class_names
from hf_immunize.models.loading import load_model
from hf_immunize.release.folder import save_immunized


def same_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_a_folder_of_transformers(vit_folder):
    loaded = load_model(vit_folder)
    assert same_weights(loaded.model, tiny_vit()[0])
    assert not loaded.model.training
    assert (loaded.name, loaded.revision, loaded.kind, loaded.library) == ("vit", None, "local", "transformers")
    assert (loaded.architecture, loaded.new_head, loaded.n_channels) == ("ViTForImageClassification", False, 3)
    assert loaded.preprocess(Image.new("RGB", (50, 40))).shape == (1, 3, 32, 32)


def test_a_folder_of_timm(timm_folder):
    loaded = load_model(f"local-dir:{timm_folder}")
    assert same_weights(loaded.model, tiny_timm())
    assert type(loaded.model) is type(tiny_timm())
    assert (loaded.library, loaded.architecture, loaded.new_head) == ("timm", "test_resnet", False)
    assert loaded.license == "apache-2.0"
    assert loaded.preprocess([Image.new("RGB", (50, 40))] * 2).shape == (2, 3, 160, 160)


@pytest.mark.parametrize("folder", ["vit_folder", "timm_folder"])
@pytest.mark.parametrize("options", [{"num_labels": 5}, {"labels": list("abcde")}])
def test_another_number_of_classes_is_a_new_head_on_the_same_body(request, folder, options):
    path = request.getfixturevalue(folder)
    before, after = load_model(path), load_model(path, **options)
    assert after.new_head
    out = after.model(torch.zeros(1, 3, 32, 32))
    assert (out if torch.is_tensor(out) else out.logits).shape == (1, 5)
    old, new = before.model.state_dict(), after.model.state_dict()
    changed = {key for key in old if not torch.equal(old[key].flatten()[:3], new[key].flatten()[:3])}
    assert changed <= {"classifier.weight", "classifier.bias", "fc.weight", "fc.bias"}


def test_labels_name_the_classes_of_a_head_without_names_which_stays_and_is_said(tmp_path, caplog):
    model, processor = tiny_vit(("LABEL_0", "LABEL_1", "LABEL_2"))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "vit")
    timm.models.save_for_hf(tiny_timm(), tmp_path / "resnet", safe_serialization=True)
    vit, resnet = (load_model(tmp_path / name, labels={0: "a", 1: "b", 2: "c"}) for name in ("vit", "resnet"))
    assert vit.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert resnet.model.pretrained_cfg["label_names"] == ["a", "b", "c"]
    assert not vit.new_head
    assert not resnet.new_head
    assert same_weights(vit.model, model)
    assert same_weights(resnet.model, tiny_timm())
    assert caplog.text.count("a head of 3 classes without names: it stays, and its classes are called a, b, c") == 2


@pytest.mark.parametrize("folder", ["vit_folder", "timm_folder"])
def test_a_head_of_as_many_other_classes_is_drawn_anew(request, folder, caplog):
    path = request.getfixturevalue(folder)
    before, drawn = load_model(path), []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(load_model(path, labels=["cat", "dog", "hen"]))
    loaded, second = drawn
    assert loaded.new_head
    assert "of others (crow, owl, wren): a new head is drawn for cat, dog, hen" in caplog.text
    assert model_class_names(loaded.model) == ["cat", "dog", "hen"]
    assert same_weights(loaded.model, second.model)
    old, new = before.model.state_dict(), loaded.model.state_dict()
    changed = {key for key in old if not torch.equal(old[key], new[key])}
    assert changed & {"classifier.weight", "fc.weight"}
    assert changed <= {"classifier.weight", "classifier.bias", "fc.weight", "fc.bias"}
    assert all(torch.isfinite(one).all() and one.shape == old[name].shape for name, one in new.items())


@pytest.mark.parametrize("folder", ["vit_folder", "timm_folder"])
def test_a_head_of_the_same_classes_stays_in_its_own_order(request, folder, caplog):
    path = request.getfixturevalue(folder)
    before = load_model(path)
    same = load_model(path, labels=["crow", "owl", "wren"])
    assert not caplog.text
    other = load_model(path, labels=["Wren", "Crow", "Owl"])
    assert "numbers the same classes in another order, which its head keeps: Crow, Owl, Wren" in caplog.text
    assert model_class_names(other.model) == ["Crow", "Owl", "Wren"]
    for loaded in (same, other):
        assert not loaded.new_head
        assert same_weights(loaded.model, before.model)


def test_weights_come_in_float32(tmp_path):
    model, processor = tiny_vit()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert {value.dtype for value in load_model(tmp_path).model.parameters()} == {torch.float32}


def test_a_checkpoint_without_a_head_is_refused_unless_one_is_asked_for(tmp_path):
    ViTModel(tiny_vit()[0].config, add_pooling_layer=False).save_pretrained(tmp_path / "body")
    tiny_vit()[1].save_pretrained(tmp_path / "body")
    with pytest.raises(
        ValueError, match=r"no trained classification head: classifier\.bias, classifier\.weight.*num_labels"
    ):
        load_model(tmp_path / "body")
    assert load_model(tmp_path / "body", num_labels=4).new_head
    timm.models.save_for_hf(tiny_timm(num_classes=0), tmp_path / "features", safe_serialization=True)
    with pytest.raises(ValueError, match="no trained classification head"):
        load_model(tmp_path / "features")
    assert load_model(tmp_path / "features", num_labels=4).model.num_classes == 4


def test_random_weights_in_the_backbone_are_not_silent(vit_folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(vit_folder / "model.safetensors")
    del weights["vit.embeddings.cls_token"]
    save_file(weights, vit_folder / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match=r"1 parameters of the backbone.*vit\.embeddings\.cls_token"):
        load_model(vit_folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 2, "labels": ["a"]}, "num_labels is 2 and labels names 1"),
        ({"num_labels": 0}, "positive whole number, got 0"),
        ({"num_labels": True}, "positive whole number, got True"),
        ({"labels": []}, "labels is empty"),
        ({"labels": "abc"}, "list of names, got the string"),
        ({"labels": {1: "a"}}, "must name the classes 0 to 0"),
        ({"revision": "main"}, "local folder, which has no revision"),
    ],
)
def test_wrong_options_say_so(vit_folder, options, message):
    with pytest.raises(ValueError, match=message):
        load_model(vit_folder, **options)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"])
def test_one_config_serves_timm_and_transformers(tmp_path, name):
    model = tiny_timm(name)
    folder = save_immunized(
        tmp_path / "out", model, sample_record(library="timm"), TimmImageProcessor.from_model(model)
    )
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    wrapped, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert wrapped.config.id2label == {0: "crow", 1: "owl", 2: "wren"}
    pixels = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(again(pixels), model(pixels), rtol=0, atol=0)
        torch.testing.assert_close(wrapped.eval()(pixels).logits, model(pixels), rtol=0, atol=0)
    assert type(load_model(folder).model) is type(model)


def test_grey_models_read_grey_images(tmp_path):
    model = tiny_timm(in_chans=1)
    folder = save_immunized(tmp_path / "out", model, sample_record(library="timm"), figures=False)
    loaded = load_model(folder)
    assert loaded.n_channels == 1
    assert loaded.preprocess(Image.new("RGB", (50, 40))).shape == (1, 1, 160, 160)


def test_a_body_alone_still_loads_elsewhere(vit_folder):
    assert AutoModel.from_pretrained(vit_folder).config.hidden_size == 32
