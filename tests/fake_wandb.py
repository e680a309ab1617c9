"""A W&B server on loopback that keeps rows, and a reader of W&B's offline files."""

import base64
import gzip
import json
import re
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

USER = {
    "id": "u",
    "entity": "me",
    "username": "me",
    "email": "",
    "flags": "{}",
    "teams": {"edges": []},
}
ENVIRONMENT = {"WANDB_API_KEY": "k" * 40, "WANDB_ERROR_REPORTING": "false"}
BLOCK, HEADER = 32768, 7


class FakeWandb:
    """Serve on loopback; `runs` has the rows of each run.

    upserts: the newest variables of each run (displayName, config, ...). summaries: of
    each run. artifacts: the variables of each by its name; inputs: pairs of a run and
    an artifact that it uses. operations: names of all queries, in order. Set `status` to refuse requests, and `delay` (seconds) to be slow.
    """

    def __init__(self) -> None:
        self.runs: dict[str, list[dict[str, Any]]] = {}
        self.upserts: dict[str, dict[str, Any]] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.inputs: list[tuple[str, str]] = []
        self.operations: list[str] = []
        # workspaces and reports by their id, and the projects that there are
        self.views: dict[str, dict[str, Any]] = {}
        self.projects = ["unmask"]
        self.status, self.delay, self.bodies = 200, 0.0, [b""]
        # Other hosts that were requested, with this server as the proxy.
        self.other_hosts: list[str] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(
            target=self.http.serve_forever, args=(0.05,), daemon=True
        ).start()

    def environment(self) -> dict[str, str]:
        return {
            **ENVIRONMENT,
            "WANDB_BASE_URL": self.url,
            "HTTPS_PROXY": self.url,
            "NO_PROXY": "127.0.0.1",
        }

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = (
                    gzip.decompress(body)
                    if self.headers.get("Content-Encoding") == "gzip"
                    else body
                )
                server.bodies.append(body)
                time.sleep(server.delay)
                answer = json.dumps(
                    server._answer(self.path, body)
                    if server.status == 200
                    else {"error": "no"}
                )
                self.send_response(server.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer.encode())

            do_GET = do_PUT = do_POST

            def do_CONNECT(self) -> None:
                server.other_hosts.append(self.path)
                self.send_error(403)

        return Handler

    def _answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path.startswith("/graphql"):
            request = json.loads(body)
            return {
                "data": self._answer_query(
                    request["query"], request.get("variables") or {}
                )
            }
        if path.endswith("/file_stream"):
            name = path.split("/")[4]
            rows = self.runs[name]
            files = json.loads(body).get("files") or {}
            history = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
            for line in files.get("wandb-summary.json", {}).get("content", []):
                self.summaries[name] = json.loads(line)
            for index, line in enumerate(history["content"], history["offset"]):
                # A row that is sent again replaces itself.
                rows[index : index + 1] = [json.loads(line)]
            return {"exitcode": None, "limits": {}}
        return {}

    def _answer_query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        named = re.search(r"(?:query|mutation)\s+(\w+)", query)
        self.operations.append(named[1] if named else "")
        if answer := self._answer_artifacts(self.operations[-1], variables):
            return answer
        if answer := self._answer_views(self.operations[-1], variables):
            return answer
        if "upsertBucket" in query:
            given = {key: value for key, value in variables.items() if value}
            self.upserts.setdefault(variables["name"], {}).update(given)
            new = variables["name"] not in self.runs
            self.runs.setdefault(variables["name"], [])
            return {
                "upsertBucket": {
                    "bucket": self._bucket(variables["name"]),
                    "inserted": new,
                }
            }
        if "RunResumeStatus" in query:
            known = (
                self._bucket(variables["name"])
                if variables["name"] in self.runs
                else None
            )
            return {
                "model": {
                    "id": "p",
                    "name": "unmask",
                    "entity": {"id": "e", "name": "me"},
                    "bucket": known,
                }
            }
        if "createRunFiles" in query:
            files = [
                {"name": name, "uploadUrl": f"{self.url}/upload/{name}"}
                for name in variables["files"]
            ]
            return {
                "createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}
            }
        return {"viewer": USER, "serverInfo": {"cliVersionInfo": {}, "features": []}}

    def _answer_artifacts(
        self, operation: str, variables: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Answer for artifacts by their names: content is never asked for.

        The id of an artifact is its name in base64, as W&B's ids are.
        """
        name = str(variables.get("name", "")).partition(":")[0]
        known = self.artifacts.get(name)
        if operation == "ArtifactType":
            kind = known and {"artifactType": {"name": known["artifactTypeName"]}}
            return {"project": {"artifact": kind}}
        if operation == "ArtifactMembershipByName":
            member = known and _membership(name, known)
            return {"project": {"artifactCollectionMembership": member}}
        if operation == "CreateArtifact":
            name = variables["input"]["artifactCollectionName"]
            self.artifacts[name] = variables["input"]
            artifact = {"id": _id(name), "versionIndex": 0}
            sequence = {"id": _id("s"), "latestArtifact": artifact}
            # one that is there already: no file of it is sent
            state = {"state": "COMMITTED", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": artifact | state}}
        if operation == "UseArtifact":
            used = base64.b64decode(variables["artifactID"]).decode()
            self.inputs.append((variables["runName"], used))
            return {"useArtifact": {"artifact": {"id": variables["artifactID"]}}}
        return None

    def _answer_views(
        self, operation: str, variables: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Answer for workspaces and reports: one with an id replaces that one."""
        if operation in ("UpsertView2", "upsertView"):
            view_id = variables.get("id") or _id(f"view {len(self.views)}")
            inserted = view_id not in self.views
            self.views[view_id] = variables
            project = {"name": variables["projectName"], "entityName": "me"}
            view = {**variables, "id": view_id, "project": project}
            return {"upsertView": {"view": view, "inserted": inserted}}
        if operation == "GetProjects":
            edges = [{"cursor": name, "node": _project(name)} for name in self.projects]
            page = {"endCursor": None, "hasNextPage": False}
            return {"models": {"edges": edges, "pageInfo": page}}
        return None

    def _bucket(self, name: str) -> dict[str, Any]:
        rows = self.runs[name]
        return {
            "id": "b",
            "name": name,
            "displayName": name,
            "config": "{}",
            "tags": [],
            "eventsTail": "[]",
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
            "historyLineCount": len(rows),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "summaryMetrics": json.dumps(rows[-1] if rows else {}),
            # without it W&B thinks that the run never began
            "wandbConfig": '{"t": {"1": []}}',
            "project": {
                "id": "p",
                "name": "unmask",
                "entity": {"id": "e", "name": "me"},
            },
        }


def _id(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _project(name: str) -> dict[str, Any]:
    return {
        "id": _id(name),
        "internalId": _id(name),
        "name": name,
        "entityName": "me",
        "createdAt": "2026-01-01T00:00:00",
        "isBenchmark": False,
        "user": None,
    }


def _membership(name: str, created: dict[str, Any]) -> dict[str, Any]:
    """Return an artifact as W&B's queries for one by its name have it."""
    project = {
        "id": _id("p"),
        "internalId": _id("p"),
        "name": "unmask",
        "entity": {"name": "me"},
    }
    collection = {"__typename": "ArtifactSequence", "name": name, "project": project}
    artifact = {
        "__typename": "Artifact",
        "id": _id(name),
        "artifactSequence": collection,
        "versionIndex": 0,
        "artifactType": {"name": created["artifactTypeName"]},
        "description": None,
        "metadata": None,
        "ttlDurationSeconds": 0,
        "ttlIsInherited": False,
        "tags": [],
        "historyStep": None,
        "state": "COMMITTED",
        "size": 1,
        "digest": created["digest"],
        "commitHash": None,
        "fileCount": 1,
        "createdAt": "2026-01-01T00:00:00",
        "updatedAt": None,
    }
    return {
        "__typename": "ArtifactCollectionMembership",
        "id": _id("m"),
        "versionIndex": 0,
        "createdAt": "2026-01-01T00:00:00",
        "aliases": [],
        "artifactCollection": collection,
        "artifact": artifact,
    }


@dataclass
class OfflineRun:
    """Hold what a run's .wandb file has."""

    run: Any
    config: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    exit_code: int | None = None


def read_offline_run(path: Path) -> OfflineRun:
    """Return the run in a .wandb file, as W&B would have it after `wandb sync`."""
    offline = OfflineRun(None, {}, {}, offline_rows(path))
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            offline.run = record.run
            _update(offline.config, record.run.config.update)
        elif kind == "config":
            _update(offline.config, record.config.update)
        elif kind == "summary":
            _update(offline.summary, record.summary.update)
        elif kind == "exit":
            offline.exit_code = record.exit.exit_code
    return offline


def _update(values: dict[str, Any], items: Any) -> None:
    for item in items:
        *above, last = list(item.nested_key) or [item.key]
        section = values
        for name in above:
            section = section.setdefault(name, {})
        section[last] = json.loads(item.value_json)


def offline_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows in a run's .wandb file."""
    records = [
        record
        for record in _records(path.read_bytes())
        if record.WhichOneof("record_type") == "history"
    ]
    return [
        {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records
    ]


def _records(content: bytes) -> Iterator[Any]:
    """Parse LevelDB's log: blocks of 32 KiB with records, cut where a block ends.

    Each piece follows a header with its length and kind.
    """
    position, part = HEADER, b""
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + HEADER])
        part = (b"" if kind in (1, 2) else part) + content[
            position + HEADER : position + HEADER + length
        ]
        position += HEADER + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(part)
            yield record
