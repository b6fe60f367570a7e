"""ML Metadata's side of the lineage benchmark: runs in `.venv-peers-mlmd`, knows `ml-metadata` and nothing of ours.

One request a line, `[function, arguments]`; one JSON value back. A SQLite store, nodes put in batches and events with
them (`put_lineage_subgraph`), questions by `get_lineage_subgraph`, as its documentation shows them.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from ml_metadata import proto
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as messages

_STATE: dict[str, Any] = {}


def start(path: str) -> None:
    """Begin a store in a SQLite file."""
    config = proto.ConnectionConfig()
    config.sqlite.filename_uri = path
    config.sqlite.connection_mode = 3  # READWRITE_OPENCREATE
    store = _STATE["store"] = metadata_store.MetadataStore(config)
    kinds = {kind: store.put_artifact_type(proto.ArtifactType(name=kind)) for kind in ("model", "dataset", "code")}
    _STATE["kinds"] = kinds
    _STATE["run"] = store.put_execution_type(proto.ExecutionType(name="finetune"))
    _STATE["artifacts"], _STATE["executions"] = {}, {}


def put(artifacts: list[list[Any]], executions: list[int], events: list[list[Any]]) -> float:
    """Put [number, kind] artifacts, executions and [execution, artifact, direction, role] events; return seconds."""
    store, known = _STATE["store"], _STATE["artifacts"]
    begun = time.perf_counter()
    rows = [proto.Artifact(type_id=_STATE["kinds"][kind], external_id=f"a{number}") for number, kind in artifacts]
    known.update(zip((number for number, _ in artifacts), store.put_artifacts(rows), strict=True))
    runs = [proto.Execution(type_id=_STATE["run"], external_id=f"e{number}") for number in executions]
    _STATE["executions"].update(zip(executions, store.put_executions(runs), strict=True))
    put_events = []
    for execution, artifact, direction, role in events:
        kind = proto.Event.INPUT if direction == "in" else proto.Event.OUTPUT
        event = proto.Event(artifact_id=known[artifact], execution_id=_STATE["executions"][execution], type=kind)
        event.path.steps.add().key = role
        put_events.append(event)
    store.put_events(put_events)
    return time.perf_counter() - begun


def reach(artifact: int, way: str) -> dict[str, float]:
    """Ask for everything above or below an artifact, as far as the store goes; return counts and seconds."""
    options = messages.LineageSubgraphQueryOptions(
        starting_artifacts=messages.LineageSubgraphQueryOptions.StartingNodes(
            filter_query=f"id = {_STATE['artifacts'][artifact]}"
        ),
        max_num_hops=1_000_000_000,
        direction=(
            messages.LineageSubgraphQueryOptions.UPSTREAM
            if way == "up"
            else messages.LineageSubgraphQueryOptions.DOWNSTREAM
        ),
    )
    begun = time.perf_counter()
    graph = _STATE["store"].get_lineage_subgraph(options)
    seconds = time.perf_counter() - begun
    return {
        "artifacts": len(graph.artifacts), "executions": len(graph.executions), "events": len(graph.events),
        "seconds": seconds,
    }  # fmt: skip


FUNCTIONS = {function.__name__: function for function in (start, put, reach)}


def main() -> None:
    """Answer until the pipe closes."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        sys.stdout.write(json.dumps(FUNCTIONS[name](**arguments)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
