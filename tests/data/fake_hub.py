"""A hub on this machine: the few answers of the Hugging Face hub's API that a download needs, over HTTP.

The client library is the real one, so that its errors, its cache and its offline mode are tested as they are.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Repositories by kind (datasets, models) and name; each maps revisions to commits and commits to files."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}
        self.branches: dict[tuple[str, str], dict[str, str]] = {}
        self.gated: set[tuple[str, str]] = set()
        self.refused: tuple[int, str] | None = None  # status and message for every request
        self.moved: dict[tuple[str, str], str] = {}
        self.downloads: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, kind: str, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Put these files onto a branch; returns the commit's hash."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.files.setdefault((kind, repo), {})[commit] = files
        self.branches.setdefault((kind, repo), {})[branch] = commit
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for the path of a request."""
        if self.refused:
            return self.refused[0], {"X-Error-Message": self.refused[1]}, b""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        is_api = parts[0] == "api"
        parts = parts[is_api:]
        kind = parts.pop(0) if parts[0] in ("datasets", "models") else "models"
        if len(parts) < 4:
            return 404, {}, b""
        repo, (action, revision, *rest) = "/".join(parts[:2]), parts[2:]
        name = self.moved.get((kind, repo), repo)  # the real hub redirects, and ends up at the same answer
        if (kind, name) not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        commits = self.files[kind, name]
        commit = self.branches[kind, name].get(revision, revision)
        if commit not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if is_api and action == "revision":
            return 200, {}, json.dumps({"id": name, "sha": commit, "siblings": []}).encode()
        if is_api and action == "tree":
            listed = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in commits[commit].items()
            ]
            return 200, {}, json.dumps(listed).encode()
        if (kind, name) in self.gated:  # what is there may be seen, but not fetched
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        content = commits[commit].get("/".join(rest))
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        self.downloads.append(f"{name}/{'/'.join(rest)}@{commit}")
        etag = hashlib.sha1(content).hexdigest()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, content

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
