"""Where a checkpoint lies, by the names that users give it."""

import pytest

from hf_immunize.models import checkpoints
from hf_immunize.models.loading import load_model


def test_wrong_places_say_so(tmp_path, vit_folder):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        load_model("./absent")
    for name in ("me/model/initial", "me/model@v1/initial"):
        with pytest.raises(FileNotFoundError, match=r"Of a repository fetch initial first \(hf download\)"):
            load_model(name)
    with pytest.raises(ValueError, match="is empty"):
        load_model("")
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load_model(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="PEFT adapter: merge it"):
        load_model(tmp_path / "adapter")
    with pytest.raises(ValueError, match="is a file"):
        load_model(vit_folder / "config.json")
    with pytest.raises(ValueError, match="Two revisions"):
        load_model("me/model@v1", revision="v2")
    with pytest.raises(ValueError, match="not a valid Hub id"):
        load_model("not a name")


def test_bare_names_of_timm_stand_for_their_hub_ids():
    assert checkpoints._timm_hub_id("resnet18.a1_in1k") == "timm/resnet18.a1_in1k"
    assert checkpoints._timm_hub_id("tf_efficientnet_lite0") == "timm/tf_efficientnet_lite0.in1k"
    assert checkpoints._timm_hub_id("someone/resnet18") is None
