"""What the benchmarks have to show: one row for each figure that a target is set on.

A target holds for the median on a machine that does nothing else. Nothing fails when one is missed: whoever reads the
figures sees it (`scripts/make_figures.py` writes them into docs/explanation/figures.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """A question, the figure or ratio of a benchmark that answers it, and what it should be at least or at most."""

    question: str
    benchmark: str
    name: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bound(self) -> str:
        """The target in words."""
        return f"≥ {self.at_least:,g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def value(self, results: Mapping[str, Mapping[str, Any]]) -> float | None:
        """Return what was measured, None where it was not."""
        found = results.get(self.benchmark, {})
        measured = {**found.get("figures", {}), **found.get("ratios", {})}
        return measured.get(self.name)

    def met(self, value: float) -> bool:
        """Tell whether a value is good enough."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


TARGETS = (
    Target("Durable append of 256 entries, over aics-tlog's", "journal", "log_over_aics_tlog_256", at_least=4),
    *(
        Target(
            f"Durable append of {size} entries, over aics-tlog's", "journal", f"log_over_aics_tlog_{size}", at_least=10
        )
        for size in (100, 255, 300)
    ),
    Target(
        "… and of 256, over a bare write and fdatasync of the same bytes", "journal", "log_over_bare_256", at_least=0.6
    ),
    Target("One caller's append: syncs that 99 of 100 wait for", "latency", "append_1_syncs_p99", at_most=2),
    Target(
        "Inclusion proof from cached tiles, over aics-tlog's uncached",
        "proofs",
        "prove_cached_over_aics_tlog",
        at_least=100,
    ),
    Target("Proofs verified in a second, the checkpoint known", "proofs", "verify_known_per_s", at_least=40_000),
    Target(
        "Receipt files verified in a second, the checkpoint known", "proofs", "receipt_known_per_s", at_least=40_000
    ),
    Target(
        "CPU of an append over a hash of its entries, at 10⁷ over at 10⁴",
        "growth",
        "cpu_over_hashing_last_over_first",
        at_most=1.2,
    ),
    Target(
        "Time of an append over a bare one, at 10⁷ over at 10⁴",
        "growth",
        "append_over_bare_last_over_first",
        at_most=1.2,
    ),
    Target("Memory at 10⁷ entries, over at 10⁴", "growth", "memory_last_over_first", at_most=1.2),
    Target(
        "PostgreSQL, one writer: entries a second, 256 an append", "scale", "append_256_entries_per_s", at_least=20_000
    ),
    Target("… four writers over one", "scale", "four_writers_over_one", at_least=1),
    Target("CPU of putting one call on record (µs)", "record", "core_us", at_most=100),
    Target(
        "CPU of a call in the gateway's data plane, everything on record (D1), 64 connections (µs)",
        "gateway",
        "cpu_worker_whole_64_us",
        at_most=120,
    ),
    Target("… calls a second that one core has room for", "gateway", "worker_calls_s_per_core", at_least=5_000),
    Target("… at D2, calls a second at 64 connections", "gateway", "d2_calls_s", at_least=3_000),
    Target(
        "What the gateway adds to a call, one connection, median (µs)",
        "gateway",
        "p50_added_over_direct_whole_us",
        at_most=300,
    ),
    Target("… to the first chunk of a stream (µs)", "gateway", "first_chunk_added_us", at_most=400),
    Target("CPU of an event of a stream (µs)", "gateway", "cpu_event_worker_us", at_most=15),
    Target(
        "CPU of a call in LiteLLM's proxy over our data plane, 64 connections",
        "gateways",
        "cpu_litellm_over_worker_64",
        at_least=100,
    ),
    Target(
        "… over ours with the parent, which seals and logs", "gateways", "cpu_litellm_over_genealog_64", at_least=100
    ),
    Target("… in Portkey's gateway over our data plane", "gateways", "cpu_portkey_over_worker_64", at_least=20),
    Target("… over ours with the parent", "gateways", "cpu_portkey_over_genealog_64", at_least=20),
    Target("Answers lost in process deaths, full disks and resets", "loss", "lost", at_most=0),
    Target("Holes that nothing tells of", "loss", "silent_gaps", at_most=0),
    Target("Comparing two registered versions of 10⁴ tensors (ms)", "diff", "diff_10000_ms", at_most=50),
    Target("Hashing files, over plain hashlib of the same bytes", "hash", "files_over_plain", at_least=0.9),
    Target("… on one core", "hash", "files_one_core_over_plain", at_least=0.9),
    Target(
        "Hashing files and tensors (two digests of each byte) on two cores, over plain hashlib of the files",
        "hash",
        "weights_over_plain",
        at_least=0.9,
    ),
    Target("Hashing many files: two cores over one", "hash", "many_2_over_1", at_least=1.8),
    Target("Memory while files and tensors of 2 GiB are hashed (MiB)", "hash", "memory_mib", at_most=100),
    Target(
        "`genealog sign --oms` over model-signing's command, 2 GiB", "hash", "sign_over_model_signing", at_least=1.5
    ),
    Target("Ancestors of a model among a million events, SQLite (ms)", "lineage", "sqlite_ancestors_ms", at_most=10),
    Target("… PostgreSQL (ms)", "lineage", "postgresql_ancestors_ms", at_most=10),
    Target(
        "Everything below the busiest model (160,000 nodes), SQLite (ms)",
        "lineage",
        "sqlite_descendants_ms",
        at_most=1_000,
    ),
    Target("… PostgreSQL (ms)", "lineage", "postgresql_descendants_ms", at_most=3_000),
    Target("Nodes above a chain of 2,000 updates, of 6,001", "lineage", "sqlite_chain_nodes", at_least=6_001),
    Target("CPU of one answer at 10⁷ events, over at 10⁴", "lineage", "chain_cpu_last_over_first", at_most=1.5),
    Target("Calls that fail while a deployment is rolled back, of tens of thousands", "rollback", "failed", at_most=0),
    Target("Answers that mix two versions", "rollback", "mixed", at_most=0),
    Target(
        "Sums of a day of a million calls that differ from an independent computation",
        "cost",
        "totals_wrong",
        at_most=0,
    ),
    Target(
        "Putting a call into log and vault: CPU at 10⁶ calls, over at the beginning",
        "cost",
        "seal_cpu_last_over_first",
        at_most=1.5,
    ),
    Target("What that day cost, by any dimension (ms)", "cost", "query_slowest_ms", at_most=1_000),
    Target(
        "A decision on a call, uncached, every policy in force: 99 of 100 (µs)",
        "policy",
        "regorus_p99_us",
        at_most=1_000,
    ),
    Target("… of CPU", "policy", "regorus_cpu_p99_us", at_most=1_000),
    Target("The self-test of the policy engine at each start (ms)", "policy", "self_test_ms", at_most=20),
    Target("What policy says of a call like one before, 99 of 100 (µs)", "serve_policy", "cached_p99_us", at_most=20),
    Target("… of one that nobody asked for yet (µs)", "serve_policy", "uncached_p99_us", at_most=1_000),
    Target("A revocation in every worker, under load, 99 of 100 (ms)", "serve_policy", "worker_p99_ms", at_most=1_000),
    Target("… acknowledged (ms)", "serve_policy", "acknowledged_p99_ms", at_most=1_000),
    Target("Calls to a revoked model after the acknowledgement", "serve_policy", "served_after", at_most=0),
)
