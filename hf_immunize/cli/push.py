"""``hf-immunize push``: a released folder to the Hub in one commit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from hf_immunize.cli.config import parse
from hf_immunize.cli.options import HubCallOptions, PushOptions
from hf_immunize.cli.parser import VerbParser
from hf_immunize.cli.printing import required
from hf_immunize.release.hub import push_to_hub
from hf_immunize.release.plan import plan_push

__all__ = ["parser", "run"]


def parser() -> VerbParser:
    """The options of the verb."""
    return VerbParser(
        "push",
        [PushOptions, HubCallOptions],
        "Uploads weights, record, figures and card of a released folder to the Hub, in one commit.",
        positional=("folder", "the folder that train or quickstart wrote"),
    )


def run(given: Sequence[str], command: str) -> int:
    """Uploads as the options say, and prints the commit."""
    options = parse(parser(), given)
    required("push", options, "folder", "repo_id")
    if options.dry_run:
        plan = plan_push(options.folder, options.repo_id, token=options.token)
        print(json.dumps(asdict(plan)) if options.json else plan)
        return 0
    commit = push_to_hub(
        options.folder,
        options.repo_id,
        private=options.private,
        token=options.token,
        revision=options.revision,
        commit_message=options.commit_message,
        create_pr=options.create_pr,
    )
    if options.json:
        print(json.dumps({"commit": commit.oid, "url": commit.commit_url, "pr_url": commit.pr_url}))
    else:
        print(f"Pushed: {commit.pr_url or commit.commit_url}")
    return 0
