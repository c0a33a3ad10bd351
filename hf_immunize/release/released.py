"""A release as it was published: its record, its models, and whether its card says what its record says."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub import HfApi, ModelCard, snapshot_download

from hf_immunize.errors import InputError, MissingFileError
from hf_immunize.hub import hub_errors, no_such_folder, patiently, split_revision, split_subfolder
from hf_immunize.models.loaded import LoadedModel
from hf_immunize.models.loading import load_model
from hf_immunize.models.untrusted import read_json
from hf_immunize.release.card import create_model_card
from hf_immunize.release.card_metadata import EVAL_RESULTS_NAME
from hf_immunize.release.claims import Claim
from hf_immunize.release.figures import FIGURES_FOLDER
from hf_immunize.release.files import BESIDE, checksums, generated_files
from hf_immunize.release.initial import INITIAL
from hf_immunize.release.markup import cell
from hf_immunize.release.merging import CARD_NAME, edited_inside, generated_text
from hf_immunize.release.metadata_claims import metadata_claims, results_claims
from hf_immunize.release.naming import name_in, other_names
from hf_immunize.release.record import RECORD_NAME, ImmunizationRecord, record_digest
from hf_immunize.release.wording import other_figures, verdict_words

__all__ = ["Released", "find_release", "published_claims"]


@dataclass(frozen=True)
class Released:
    """A release that was found.

    Attributes:
        name: the Hub id, with the subfolder behind it (``user/name/sub``), or the folder's name.
        revision: its commit on the Hub; None for a folder.
        folder: where its files lie.
        record: its record.
        branches: further models of the repository: name → commit.
        token: of the Hub.
    """

    name: str
    revision: str | None
    folder: Path
    record: ImmunizationRecord
    branches: dict[str, str] = field(default_factory=dict)
    token: str | bool | None = field(default=None, repr=False)

    def holds(self, model: str) -> bool:
        """Whether the release carries ``initial``, ``control``, ``primary_only`` or ``public``."""
        return model in self.branches or (self.folder / model / "config.json").is_file()

    def load(self, model: str) -> LoadedModel:
        """``immunized``, or one of those that :meth:`holds` finds; never with code of its own.

        Raises:
            UserError: it is not there, or cannot be read.
        """
        if model == "immunized":
            return load_model(self.folder)
        if (self.folder / model / "config.json").is_file():
            return load_model(self.folder / model)
        if model in self.branches:
            return load_model(self._fetched(model))
        raise InputError(f"The release does not carry the {model} model (keep it: keep=[{model!r}], --keep {model}).")

    def _fetched(self, model: str) -> Path:
        """The files of a further model at the commit of its branch; those that the record was written with."""
        with hub_errors(self.name, model):
            folder = Path(
                snapshot_download(
                    self.name, revision=self.branches[model], token=self.token, allow_patterns=list(_model_files(""))
                )
            )
        found = checksums(folder)
        wanted = {name: one for name, one in self.record.files.items() if name.startswith(f"{model}/")}
        other = [name for name, digest in wanted.items() if found.get(name.removeprefix(f"{model}/")) != digest]
        if other or not wanted:
            raise InputError(
                f"The branch {model} of {self.name} holds other files than the record was written with: "
                f"{', '.join(other) or 'it names none'}."
            )
        return folder


def find_release(
    repo_id: str | os.PathLike[str],
    revision: str | None = None,
    token: str | bool | None = None,
    *,
    files: Sequence[str] | None = None,
) -> Released:
    """Finds a release: a folder, or a repository of the Hub, whose files are fetched at one commit.

    Args:
        repo_id: ``user/name`` on the Hub, or a subfolder of a repository ``user/name/sub`` (with ``@revision``), or a
            folder.
        revision: branch, tag or commit.
        token: of the Hub.
        files: fetched beside the record, in place of card and models.

    Raises:
        UserError: nothing there, or no release of this library.
        ConnectionError: the Hub cannot be reached.
    """
    given = os.fspath(repo_id)
    folder = Path(given).expanduser()
    if folder.is_dir():
        if revision:
            raise InputError(f"{given} is a folder, which has no revision {revision!r}. Leave the revision away.")
        return Released(folder.resolve().name, None, folder, _record_in(folder, given))
    if given.startswith(("/", ".", "~")):
        raise MissingFileError(f"There is no folder {given}. Give the folder of a release, or a Hub id user/name.")
    name, revision = split_revision(given, revision)
    repo_id, subfolder = split_subfolder(name)
    wanted = [Path(glob.escape(subfolder), one).as_posix() for one in _wanted(files)]
    api = HfApi(token=token)
    with no_such_folder(given, repo_id, subfolder):
        with hub_errors(repo_id, revision):
            commit = patiently(lambda: api.model_info(repo_id, revision=revision)).sha
            # Of a release in a subfolder θ0 lies there too: the branch is that of the release at the root.
            refs = [] if subfolder else patiently(lambda: api.list_repo_refs(repo_id)).branches
            fetched = patiently(lambda: snapshot_download(repo_id, revision=commit, token=token, allow_patterns=wanted))
        known = {one.name: one.target_commit for one in refs if one.name == INITIAL}
        folder = Path(fetched, subfolder)
        return Released(name, commit, folder, _record_in(folder, name), known, token)


def _wanted(files: Sequence[str] | None) -> Iterator[str]:
    # fnmatch lets a star cross folders: weights of checkpoints would be fetched by it, to no use.
    yield RECORD_NAME
    if files is not None:
        yield from files
        return
    yield from (CARD_NAME, EVAL_RESULTS_NAME)
    for folder in ("", *BESIDE):
        yield from _model_files(f"{folder}/" if folder else "")


def _model_files(folder: str) -> Iterator[str]:
    yield from (f"{folder}{name}" for name in ("config.json", "preprocessor_config.json", "head.safetensors"))
    yield from (f"{folder}model{end}.safetensors" for end in ("", "-?????-of-?????"))
    yield f"{folder}model.safetensors.index.json"


def _record_in(folder: Path, name: str) -> ImmunizationRecord:
    if not (folder / RECORD_NAME).is_file():
        raise InputError(
            f"{name} holds no {RECORD_NAME}: it was not released with hf_immunize, so that there is no claim to check. "
            "Measure any two models with `hf-immunize evaluate MODEL --base BASE`."
        )
    return ImmunizationRecord.load(folder)


def published_claims(release: Released) -> Iterator[Claim]:
    """Whether record and files are those that were written, and card, metadata and results say what the record says."""
    yield _record_claim(release.folder)
    yield _files_claim(release)
    path = release.folder / CARD_NAME
    if not path.is_file():
        yield Claim("the card", "the record's figures", why=f"There is no {CARD_NAME}.")
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    figures = tuple(sorted({one.rsplit("/", 1)[-1] for one in re.findall(r"\]\((figures/[^)\s]+)\)", text)}))
    # Folders are renamed and repositories too, or copied: their name is no claim, whatever figures are in it.
    own = create_model_card(release.record, name_in(generated_text(text) or "", release.name), figures=figures)
    yield _card_claim(release.record, text, str(own))
    try:
        data = ModelCard(text, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        yield Claim("the card's metadata", "model-index", None, None, "differs", f"They cannot be read: {error}")
        return
    yield from metadata_claims(release.record, data)
    results = release.folder / EVAL_RESULTS_NAME
    if results.is_file():
        yield from results_claims(release.record, results.read_text(encoding="utf-8", errors="replace"))


def _record_claim(folder: Path) -> Claim:
    name, values = "the record is as it was written", read_json(folder / RECORD_NAME)
    if values.get("digest") == record_digest(values):
        return Claim(name, "its digest", "its digest", None, "holds")
    why = f"{RECORD_NAME} was changed since it was written: nobody measured what it says now."
    return Claim(name, values.get("digest"), record_digest(values), None, "differs", why)


def _files_claim(release: Released) -> Claim:
    found, wanted = checksums(release.folder), release.record.files
    shared = [name for name in wanted if name in found]
    other = [name for name in shared if found[name] != wanted[name]]
    extra = [name for name in found if name not in wanted] if wanted else []
    if other or extra:
        why = f"The record was written with other files: {', '.join(other)}." if other else ""
        why += f"{' ' if why else ''}It names no {', '.join(extra)}." if extra else ""
        return Claim("the files", f"{len(shared)} SHA-256", None, None, "differs", why)
    own = [name for name in generated_files(wanted) if "/" not in name]
    missing = [name for name in own if name not in found]
    if missing or not any(name.endswith(".safetensors") for name in own):
        why = f"Not here: {', '.join(missing)}." if missing else "The record holds that of no weights."
        return Claim("the files", "SHA-256", why=why)
    # Figures are not fetched from the Hub, and the models beside go to branches there.
    gone = [name for name in wanted if name.startswith(f"{FIGURES_FOLDER}/") and name not in found]
    why = f"Not here: {', '.join(gone)}." if gone and release.revision is None else ""
    return Claim("the files", f"{len(shared)} SHA-256", None, None, "holds", why)


def _card_claim(record: ImmunizationRecord, given: str, own: str) -> Claim:
    """What the generated part of a card claims; the words of the template that wrote it may be others than today's."""
    name = "the card says what the record says"
    block, wanted = generated_text(given), generated_text(own) or ""
    if block is None:
        return Claim(name, "the generated part", why="The card has no generated part.")
    other = sorted(other_figures(block, wanted, record.to_dict()), key=lambda one: one.expected is None)
    if other and other[0].expected is not None:
        first = other[0]
        why = f"The generated part was edited, or is of another record: {first.where}"
        return Claim(name, first.given, first.expected, None, "differs", why)
    for what, named in other_names(block, record):
        why = f"The generated part was edited, or is of another record: {what}"
        return Claim(name, f"another name of {what}", named, None, "differs", why)
    if edited_inside(given):
        return Claim(name, "the generated part", None, None, "differs", "The generated part was edited by hand.")
    attacks = record.results.get("attacks") or {}
    verdicts, expected = verdict_words(block), verdict_words(wanted)
    if attacks and verdicts != expected and (verdicts or cell(attacks["verdict"]["text"]) not in block):
        return Claim(name, verdicts, expected, None, "differs", "The verdict is not the record's.")
    left_out = [one for one in attacks.get("attackers", {}) if cell(one) not in block]
    if left_out:
        return Claim(name, "the attackers", left_out, None, "differs", "The card leaves attackers of the record out.")
    if other:
        why = f"The record holds no such figure, and another template wrote the card: {other[0].where}"
        return Claim(name, other[0].given, why=why)
    return Claim(name, "the record's figures", "the record's figures", None, "holds")
