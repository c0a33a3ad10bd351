"""The finished runs of a reproduction, in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_immunize.data.whole_files import whole_file
from hf_immunize.errors import OutputExistsError
from hf_immunize.release.record import library_versions

__all__ = ["Results"]


class Results:
    """Finished runs in one JSON file, written whole each time, so that an interrupted reproduction goes on.

    Raises:
        OutputExistsError: settings were given, and the file has runs of others.
    """

    def __init__(
        self, path: Path, command: str, indent: int | None = 1, settings: dict[str, Any] | None = None
    ) -> None:
        self.path, self.indent = path, indent
        self.values: dict[str, Any] = {"rows": {}}
        # As JSON gives them back, so that what was read compares with what is asked for.
        settings = json.loads(json.dumps(settings or {}))
        if path.exists():
            self.values = json.loads(path.read_text(encoding="utf-8"))
            earlier = self.values.get("settings", {})
            different = [name for name in settings if earlier.get(name) != settings[name]]
            if different:
                raise OutputExistsError(
                    f"{path} has runs of other settings: {', '.join(different)} differ. Give another --output_dir, or "
                    "remove the file."
                )
        self.values |= {
            "command": command,
            "versions": library_versions(),
            **({"settings": settings} if settings else {}),
        }

    def __contains__(self, key: str) -> bool:
        return key in self.values["rows"]

    def done(self, key: str, recipe: dict[str, Any] | None) -> bool:
        """Whether a run is finished, and was this one: the same numbers and not only the same name."""
        return key in self and self[key]["recipe"] == recipe

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.values["rows"][key]

    def of(self, pair: tuple[str, str], method: str) -> list[dict[str, Any]]:
        """The runs of a method, one a seed."""
        return [row for key, row in self.values["rows"].items() if key.startswith(f"{pair[0]}/{pair[1]}/{method}/")]

    def reports(self, pair: tuple[str, str]) -> dict[str, Any]:
        """Where the runs are those of attackers: a report for each method."""
        return self.values["rows"].get("/".join(pair), {})

    def add(self, key: str, row: dict[str, Any] | None) -> None:
        """Keeps a row in the place of one of the same name; None takes that one out."""
        self.values["rows"][key] = row
        if row is None:
            del self.values["rows"][key]
        with whole_file(self.path) as unfinished:
            unfinished.write_text(json.dumps(self.values, indent=self.indent) + "\n", encoding="utf-8")
