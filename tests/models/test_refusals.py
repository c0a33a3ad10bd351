"""What cannot be loaded says why, and what to do."""

import json

import pytest

from hf_immunize.models.loading import load_model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "no image classifier that transformers knows"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}},
            "trust_remote_code=True .--trust_remote_code. if you trust it",
        ),
    ],
)
def test_what_transformers_cannot_load_says_what_to_do(vit_folder, change, message):
    config = json.loads((vit_folder / "config.json").read_text()) | change
    (vit_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_model(vit_folder)


def test_pickled_weights_are_never_opened(vit_folder, timm_folder):
    for folder in (vit_folder, timm_folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match="no weights in safetensors"):
            load_model(folder)
