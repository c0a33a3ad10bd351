"""Where a checkpoint lies, by the names that users give it."""

import shutil

import pytest
from hub_client import ClientError, HubClient
from hub_repos import TOKEN
from hub_server import HubServer

from hf_immunize.models import checkpoints
from hf_immunize.models.loading import load_model


def test_wrong_places_say_so(tmp_path, vit_folder):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        load_model("./absent")
    for name in ("me/model/../../other", "me/model//initial", "me/model/"):
        with pytest.raises(ValueError, match="is no name of a model"):
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


LOAD = """
import logging
from hf_immunize import load_model
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("hf_immunize.models.loading").addHandler(handler)
found = load_model({name!r})
facts = [found.name, found.revision, found.kind, found.library, found.license, found.image_processor is not None]
result = [facts, sum(float(one.double().sum()) for one in found.model.state_dict().values()), said]
"""


def test_a_subfolder_of_a_repository_is_a_model_by_its_name(tmp_path, vit_folder, timm_folder):
    zoo = tmp_path / "zoo"
    shutil.copytree(vit_folder, zoo / "vision" / "small")
    shutil.copytree(timm_folder, zoo / "resnet")
    # Beside it at the root other weights, the card, and the one image processor.
    (zoo / "vision" / "small" / "preprocessor_config.json").rename(zoo / "preprocessor_config.json")
    (zoo / "README.md").write_text("---\nlicense: mit\n---\n")
    expected = {name: load_model(folder) for name, folder in (("vision/small", vit_folder), ("resnet", timm_folder))}
    hub = HubServer()
    client = HubClient(hub.url, tmp_path / "home", TOKEN)
    try:
        commit = client.run(
            "from huggingface_hub import HfApi\napi = HfApi()\napi.create_repo('me/zoo')\n"
            f"result = api.upload_folder(repo_id='me/zoo', folder_path={str(zoo)!r}).oid"
        )
        for name, local in expected.items():
            facts, weights, said = client.run(LOAD.format(name=f"me/zoo/{name}@main"))
            assert facts == [f"me/zoo/{name}", commit, "hub", local.library, local.license or "mit", True]
            assert weights == sum(float(one.double().sum()) for one in local.model.state_dict().values())
            root = [f"me/zoo/{name} holds no image processor: that at the root of me/zoo is taken."]
            assert said == (root if local.library == "transformers" else [])
        with pytest.raises(ClientError, match="There is no folder me/zoo/vision, and as the subfolder vision of"):
            client.run(LOAD.format(name="me/zoo/vision"))
        with pytest.raises(ClientError, match=r"There is no folder me/no/vision, .* There is no me/no on"):
            client.run(LOAD.format(name="me/no/vision"))
        away = HubClient("http://127.0.0.1:9", tmp_path / "home", TOKEN)
        try:
            again, same, _ = away.run(LOAD.format(name=f"me/zoo/vision/small@{commit}"))
            assert (again[:2], same) == (
                ["me/zoo/vision/small", commit],
                client.run(LOAD.format(name="me/zoo/vision/small"))[1],
            )
        finally:
            away.close()
    finally:
        client.close()
        hub.close()
