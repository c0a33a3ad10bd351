"""Folders with records as a gallery reads them: no weights, figures on request."""

from __future__ import annotations

import json

from samples import attack_report, sample_record

from hf_immunize.release.claims import compare_results
from hf_immunize.release.figures import save_figures
from hf_immunize.release.verify import Verification

#: A name that would run in a page that does not escape it, and would make it wider than a phone.
HOSTILE = "\"'><img src=x onerror=document.title='run'></script><script>document.title='run'</script>" + "w" * 60


def write_release(folder, *, recovery=0.5, pictures=False, verified=False, **changes):
    """A folder with a record whose strongest head recovers what is asked for; None leaves the attacks away."""
    record = sample_record(**changes)
    if recovery is None:
        del record.results["attacks"]
    elif recovery != 0.5:
        accuracy = {"initial": 0.9, "control": 0.88, "immunized": 0.4 + 0.5 * recovery, "scratch": 0.4}
        record.results["attacks"] = attack_report({"Adam, best rate": accuracy}).to_dict()
    record.save(folder)
    if pictures:
        save_figures(record, folder)
    if verified:
        results = {**record.results, "n_primary": 500}
        claims = tuple(compare_results(record.results, results, {"initial", "immunized", "control"}))
        found = Verification(folder.name, None, record, claims, results).to_dict()
        (folder / "verification.json").write_text(json.dumps(found), encoding="utf-8")
    return folder
