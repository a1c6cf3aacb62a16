"""As much of the Kubernetes API as Snakemake's plugin needs: a job's command is run at once, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


class Cluster(ThreadingHTTPServer):
    """Listens on a free port; `jobs` are those that were asked for, each with the exit code of its command."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.environment = environment
        self.jobs: dict[str, dict[str, Any]] = {}

    def run(self, job: dict[str, Any]) -> None:
        """Run a job's only container, without what its image has."""
        (container,) = job["spec"]["template"]["spec"]["containers"]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [*container["command"], *container["args"]],
                cwd=folder, env=dict(self.environment), capture_output=True, text=True,
            )  # fmt: skip
        self.jobs[job["metadata"]["name"]] = job | {"exit_code": done.returncode, "log": done.stdout + done.stderr}

    def kubeconfig(self, path: Path) -> Path:
        """Write what names this server to kubectl and the plugin."""
        server = {"server": f"http://127.0.0.1:{self.server_port}"}
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": server}], "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""

    def _answer(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        return found

    def do_POST(self) -> None:
        content = self._body()
        if self.path.endswith("/jobs"):
            self.server.run(content)
        self._answer(content)

    def do_GET(self) -> None:
        if "/jobs/" not in self.path:
            return self._answer({"items": []})  # pods, of which a finished job has none left
        job = self.server.jobs[self.path.split("/jobs/")[1].split("/")[0]]
        status = {"failed" if job["exit_code"] else "succeeded": 1}
        self._answer({"metadata": job["metadata"], "spec": job["spec"], "status": status})

    def do_DELETE(self) -> None:
        self._body()
        self._answer({"status": "Success"})


@contextmanager
def cluster(source: Path) -> Iterator[Cluster]:
    """A cluster whose pods have this process's environment, and the package in `source`."""
    with Cluster(os.environ | {"PYTHONPATH": str(source), "CUDA_VISIBLE_DEVICES": ""}) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
