"""``hf-immunize gallery``: one static page of many releases."""

from __future__ import annotations

from collections.abc import Sequence

from hf_immunize.cli.config import parse
from hf_immunize.cli.options import GalleryOptions, HubCallOptions
from hf_immunize.cli.parser import VerbParser
from hf_immunize.cli.printing import as_json, say, stdout_for_results
from hf_immunize.release.gallery import check_page, gallery, save_gallery

__all__ = ["parser", "run"]


def parser() -> VerbParser:
    """The options of the verb."""
    return VerbParser(
        "gallery",
        [GalleryOptions, HubCallOptions],
        "Makes one page for a browser out of releases: a table to sort of what each claims and what a verification "
        "measured of it, with their figures. Exit status 0 only if all of them could be shown.",
        positional=("releases", "folders of releases, or Hub ids (with @revision)"),
        many=True,
    )


def run(given: Sequence[str], command: str) -> int:
    """Writes the page as the options say, and prints its path."""
    options = parse(parser(), given)
    check_page(options.output, options.overwrite)
    with stdout_for_results(options.json):
        entries, failed = gallery(options.releases, verified=options.verified, token=options.token)
        path = save_gallery(entries, options.output, failed=failed, title=options.title, overwrite=options.overwrite)
    if options.json:
        shown = {one.name: one.measured.status if one.measured else "not verified" for one in entries}
        print(as_json({"page": str(path), "shown": shown, "failed": failed}))
    else:
        print(path)
    say(f"{name} is not shown: {why}" for name, why in failed.items())
    return 1 if failed else 0
