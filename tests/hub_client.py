"""A process that runs the real Hub client against the loopback server, with a token and a cache of its own.

``HF_ENDPOINT`` and the caches are read when ``huggingface_hub`` is imported, so each combination needs its process. One
process takes many snippets, and so pays for its imports once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_LOOP = """
import io, json, sys, traceback
out, sys.stdout = sys.stdout, sys.stderr
space = {}
for line in sys.stdin:
    space["result"] = None
    try:
        exec(json.loads(line), space)
        answer = {"result": space["result"]}
    except Exception as error:
        traceback.print_exc()
        bases = [one.__name__ for one in type(error).__mro__]
        answer = {"error": bases[0], "message": str(error), "bases": bases}
    out.write(json.dumps(answer) + "\\n")
    out.flush()
"""


class ClientError(Exception):
    """What a snippet raised: ``kind`` is the name of its class, ``bases`` those of its bases."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["message"])
        self.kind = answer["error"]
        self.bases = answer["bases"]


class HubClient:
    """Runs snippets of Python; what one assigns to ``result`` (plain data) comes back."""

    def __init__(self, endpoint: str, home: Path, token: str | None = None, *, xet: bool = False) -> None:
        root = Path(__file__).parent
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        }
        environment |= {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": os.pathsep.join([str(root.parent), str(root), environment.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        if token:
            environment["HF_TOKEN"] = token
        self.log = (home.parent / f"{home.name}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            cwd=home.parent,
        )

    def run(self, code: str) -> Any:
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"The client process died:\n{self.log.read()[-4000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(answer)
        return answer["result"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()
