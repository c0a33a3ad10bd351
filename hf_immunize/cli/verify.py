"""``hf-immunize verify``: a published model measured again, claim by claim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hf_immunize.cli.config import parse
from hf_immunize.cli.options import HubCallOptions, VerifyOptions
from hf_immunize.cli.parser import VerbParser
from hf_immunize.cli.printing import as_json, required, say, stdout_for_results
from hf_immunize.errors import OutputExistsError, writing
from hf_immunize.release.figures import VERIFICATION_FIGURE, plot_verification, save_figure
from hf_immunize.release.target import check_can_be_made
from hf_immunize.release.verified import check_can_ask, push_verified
from hf_immunize.release.verify import VERIFICATION_NAME, verify

__all__ = ["parser", "run"]


def parser() -> VerbParser:
    """The options of the verb."""
    return VerbParser(
        "verify",
        [VerifyOptions, HubCallOptions],
        "Measures a model that was published with hf_immunize again, on the data that its record names, against the "
        "base model that it names, and says of each claim whether it holds. Exit status 0 only if all of them do.",
        positional=("model", "Hub id, or a subfolder user/name/sub (with @revision), or the folder of a release"),
    )


def run(given: Sequence[str], command: str) -> int:
    """Verifies as the options say, and prints what was found."""
    options = parse(parser(), given)
    required("verify", options, "model")
    folder = None if options.output_dir is None else Path(options.output_dir).expanduser()
    if folder is not None:
        there = [folder / name for name in (VERIFICATION_NAME, VERIFICATION_FIGURE) if (folder / name).exists()]
        if there and not options.overwrite:
            raise OutputExistsError(f"{there[0]} exists. Name another folder, or pass --overwrite.")
        check_can_be_made(folder)
    if options.create_pr:
        check_can_ask(options.model, token=options.token)
    with stdout_for_results(options.json):
        found = verify(
            options.model,
            primary=options.primary,
            harmful=options.harmful,
            benign=options.benign,
            base=options.base,
            attackers=options.attackers,
            token=options.token,
            batch_size=options.batch_size,
            device="cuda" if torch.cuda.is_available() else None,
            progress=not options.json,
        )
        say(found.notes)
    written = []
    if folder is not None:
        with writing(folder, "Make room, or choose another folder."):
            written = [found.save(folder), save_figure(plot_verification(found.claims), folder / VERIFICATION_FIGURE)]
    if options.json:
        print(as_json(found.to_dict()))
    else:
        print(found)
        for path in written:
            print(path)
    if options.create_pr:
        say([f"pull request: {push_verified(found, token=options.token).pr_url}"])
    return 0 if found.holds else 1
