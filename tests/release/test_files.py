"""Which files of a folder are the library's own."""

from hf_immunize.release.files import generated_files


def test_what_a_save_writes_is_its_own_and_nothing_within_other_folders():
    own = ["config.json", "model.safetensors", "figures/spectra.png", "initial/model.safetensors", "README.md"]
    assert generated_files([*own, "mine.txt", "checkpoint-5/model.safetensors", "figures/mine.png"]) == own
