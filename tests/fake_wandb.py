"""A W&B server on loopback that keeps rows, and a reader of W&B's offline files."""

import gzip
import json
import struct
import threading
import time
from collections.abc import Iterator
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

    Set `status` to refuse requests, and `delay` (seconds) to be slow.
    """

    def __init__(self) -> None:
        self.runs: dict[str, list[dict[str, Any]]] = {}
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
            rows = self.runs[path.split("/")[4]]
            history = (json.loads(body).get("files") or {}).get(
                "wandb-history.jsonl", {"offset": 0, "content": []}
            )
            for index, line in enumerate(history["content"], history["offset"]):
                # A row that is sent again replaces itself.
                rows[index : index + 1] = [json.loads(line)]
            return {"exitcode": None, "limits": {}}
        return {}

    def _answer_query(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
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


def offline_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows in a run's .wandb file."""
    records = [
        record
        for record in _records(path.read_bytes())
        if record.WhichOneof("record_type") == "history"
    ]
    return [
        {
            item.key or item.nested_key[0]: json.loads(item.value_json)
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
