"""A push by a process of its own."""

from __future__ import annotations

PUSH = "from hf_immunize.release.hub import push_to_hub\n"


def push(client, folder, repo_id, **options):
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    return client.run(
        PUSH
        + f"info = push_to_hub({str(folder)!r}, {repo_id!r}{given})\nresult = [info.oid, info.commit_url, info.pr_url]"
    )
