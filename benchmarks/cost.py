"""A day of a million calls: written, sequenced, projected, and asked what it cost by every dimension.

The calls are made here, from a seed: departments, projects, principals and models with the lengths, caches, tiers and
faults that such a day has. Each goes the way of every call: two frames in a spool, sealed with its cost, into log and
vault, and from there into the rows of costs. `totals_wrong` counts sums that differ, by a millionth or more, from those
that this file computes on its own from the prices in text (`fractions`, no code of the package).

    seal_us          the sequencer, for each call, everything included: reading, sealing, vault, log
    seal_cpu_first_us, seal_cpu_last_us    its CPU for a call while the first and the last twentieth of them came in
    project_us       rows of costs from entries and vault, for each call
    query_*_ms       `genealog cost --by …` once the rows are there; `query_slowest_ms` is the worst of all dimensions
    spent_ms         what every principal has spent this day
    what_if_s        all calls priced again as another model
    rows_mib         what the rows take

`GENEALOG_COST_CALLS` makes it another number of calls. `runs` is how often each query is asked.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import floor

from benchmarks.harness import Result, scratch
from genealog.core.call import GROUPS, call_id
from genealog.core.canonical import timestamp
from genealog.core.frames import SALT, Intent, Outcome, encode_frame
from genealog.cost.files import parse_table, sign_table
from genealog.cost.projection import catch_up
from genealog.cost.report import DIMENSIONS, report
from genealog.cost.spending import Spending
from genealog.cost.tables import Tables
from genealog.cost.what_if import what_if
from genealog.registry import Registry
from genealog.store.spool import SpoolWriter

CALLS = int(os.environ.get("GENEALOG_COST_CALLS", "1000000"))
_CHUNK = 50_000  # calls between two runs of the sequencer
_PRICES: dict[str, dict[str, dict[str, str]]] = {  # model → tier → class → dollars for a million
    "large": {
        "": {"input": "1.25", "cached": "0.125", "output": "10"},
        "batch": {"input": "0.625", "cached": "0.0625", "output": "5"},
    },
    "small": {"": {"input": "0.25", "cached": "0.025", "output": "2"}},
    "nano": {"": {"input": "0.05", "cached": "0.005", "output": "0.4"}},
}
_GPU_HOUR, _GPUS, _SLOTS = "2.49", 2, 24


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made up, and what it should cost in millionths; None: nothing that is known."""

    at: datetime
    milliseconds: int
    who: dict[str, str]
    deployment: str
    seller: str
    model: str
    tier: str
    prompt: int
    cached: int
    completion: int
    usage: bool
    cost: int | None

    @property
    def dimensions(self) -> dict[str, str | None]:
        """Where the call belongs in each sum."""
        names: dict[str, str | None] = {**self.who, "tenant": None, "deployment": self.deployment}
        hour = timestamp(self.at)[:13]
        times = {"month": hour[:7], "day": hour[:10], "hour": f"{hour}:00Z"}
        return names | times | {"model": self.model, "seller": self.seller, "tier": self.tier or None}


def day(calls: int, start: datetime, seed: int = 1) -> Iterator[Made]:
    """Yield the calls of one day, in order."""
    dice = random.Random(seed)
    people = [
        {"principal": f"svc-{number}", "department": f"dept-{number % 12}", "project": f"project-{number % 40}"}
        for number in range(200)
    ]
    models = [*(["large"] * 6), *(["small"] * 8), *(["nano"] * 4), *(["own-llama"] * 2), "unlisted"]
    bots = [(f"bot-{number}", dice.sample(models, 2)) for number in range(20)]  # two targets each
    uses = [dice.sample(bots, 3) for _ in people]
    for number in range(calls):
        who = dice.randrange(len(people))
        bot, targets = dice.choice(uses[who])
        model = targets[dice.random() < 0.1]
        own = model == "own-llama"
        tier = "batch" if model == "large" and dice.random() < 0.2 else ""
        prompt, completion = int(dice.lognormvariate(6.5, 1.2)), int(dice.lognormvariate(5, 1))
        cached = prompt * dice.choice((0, 0, 50, 90)) // 100
        took = dice.randrange(150, 20_000)
        usage = dice.random() >= 0.01
        cost = None
        if own:
            cost = _up(Fraction(took, 3_600_000) * Fraction(_GPU_HOUR) * _GPUS / _SLOTS)
        elif usage and model in _PRICES:
            price = {name: Fraction(text) / 10**6 for name, text in _PRICES[model][tier].items()}
            cost = _up((prompt - cached) * price["input"] + cached * price["cached"] + completion * price["output"])
        yield Made(
            at=start + timedelta(milliseconds=number * 86_400_000 // calls), milliseconds=took,
            who=people[who], deployment=bot, seller="own/gpu" if own else "vendor",
            model=model, tier=tier, prompt=prompt, cached=cached, completion=completion, usage=usage, cost=cost,
        )  # fmt: skip


def run(runs: int) -> Result:
    """Run the benchmark."""
    with scratch() as folder:
        registry = Registry.init(folder / ".genealog")
        tables = Tables(registry.home)
        for text in _tables():
            tables.add(sign_table(parse_table(text.encode()), registry.signer()))
        start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        expected, sealing, cpu = _record(registry, start)
        began = time.perf_counter()
        catch_up(registry.ledger)
        projecting = time.perf_counter() - began
        index = registry.home.index
        times: dict[str, float] = {}
        wrong = 0
        for name in DIMENSIONS:
            samples = []
            for _ in range(max(3, runs)):
                began = time.perf_counter()
                found = report(index, by=(name,), since=start, until=start + timedelta(days=1, milliseconds=-1))
                samples.append((time.perf_counter() - began) * 1000)
            times[name] = statistics.median(samples)
            if name in expected:
                got = {row.values[0]: (row.cost, row.calls) for row in found.rows if row.currency}
                wrong += got != expected[name]
        spending = Spending(registry.ledger)
        began = time.perf_counter()
        spent = spending.all(start, "USD")
        spent_ms = (time.perf_counter() - began) * 1000
        wrong += spent != {name: cost for name, (cost, _) in expected["principal"].items()}
        began = time.perf_counter()
        what_if(index, tables.now(), at=timestamp(start), model="nano", seller="vendor")
        again = time.perf_counter() - began
        size = sum(path.stat().st_size for path in registry.home.path.glob("index.sqlite*"))
        registry.home.close()
    total = sum(cost for cost, _ in expected["day"].values())
    figures = {
        "calls": float(CALLS), "total_cents": total / 10_000, "totals_wrong": float(wrong),
        "seal_us": sealing / CALLS * 1e6, "seal_cpu_first_us": cpu[0] * 1e6, "seal_cpu_last_us": cpu[-1] * 1e6,
        "project_us": projecting / CALLS * 1e6,
        "query_slowest_ms": max(times.values()), "query_department_ms": times["department"],
        "query_hour_ms": times["hour"], "spent_ms": spent_ms, "what_if_s": again, "rows_mib": size / 2**20,
    }  # fmt: skip
    return Result("cost", runs, figures, {"seal_cpu_last_over_first": cpu[-1] / cpu[0]})


def _record(
    registry: Registry, start: datetime
) -> tuple[dict[str, dict[str | None, tuple[int, int]]], float, list[float]]:
    """Write and sequence the day; return what each sum should be (cost, calls), the seconds of sequencing, and the
    CPU seconds of a call in each chunk.
    """
    sums: dict[str, dict[str | None, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    spool = SpoolWriter(registry.home.spool_dir)
    sequencer = registry.ledger.sequencer()
    seconds = 0.0
    cpu: list[float] = []
    since = 0
    for number, made in enumerate(day(CALLS, start), 1):
        for frame in _frames(number, made):
            spool.write(frame)
        if made.cost is not None:
            for name, value in made.dimensions.items():
                sums[name][value][0] += made.cost
                sums[name][value][1] += 1
        if number % _CHUNK == 0 or number == CALLS:
            began, spent = time.perf_counter(), time.process_time()
            sequencer.run_once()
            seconds += time.perf_counter() - began
            cpu.append((time.process_time() - spent) / (number - since))
            since = number
    spool.close()
    return {name: {key: (c, n) for key, (c, n) in each.items()} for name, each in sums.items()}, seconds, cpu


def _frames(number: int, made: Made) -> tuple[bytes, bytes]:
    entropy = number.to_bytes(10, "big")
    call = call_id(int(made.at.timestamp() * 1000), entropy)
    salts = b"".join(bytes([place]) * (SALT - 10) + entropy for place in range(len(GROUPS)))
    intent = Intent(
        n=2 * number - 1, call=call, seq=number, called_at=made.at, deployment=made.deployment, spec=None, models=(),
        bound="A0", durability="D1", capture="none", dialect="openai-chat", operation="/v1/chat/completions",
        who=made.who, headers={}, salts=salts, seller=made.seller,
        request=b'{"model":"%s","messages":[{"role":"user","content":"x"}]}' % made.model.encode(),
    )  # fmt: skip
    usage = b""
    if made.usage:
        usage = b',"usage":{"prompt_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}' % (
            made.prompt, made.completion, made.cached,
        )  # fmt: skip
    tier = b',"service_tier":"%s"' % made.tier.encode() if made.tier else b""
    body = (
        b'{"model":"%s","choices":[{"index":0,"message":{"role":"assistant","content":"y"},"finish_reason":"stop"}]%s%s}'
        % (made.model.encode(), usage, tier)
    )
    outcome = Outcome(
        n=2 * number, call=call, ended_at=made.at + timedelta(milliseconds=made.milliseconds), finish="complete",
        status=200, content_type="application/json", content_encoding=None, response=body, delivered=len(body),
        assurance="A0", error=None, engine=None,
    )  # fmt: skip
    return encode_frame(intent), encode_frame(outcome)


def _tables() -> Iterator[str]:
    head = 'currency = "USD"\nvalid_from = 2026-01-01\nsource = "benchmarks/cost.py"\n'
    entries = []
    for model, tiers in _PRICES.items():
        entry = [f'[[entries]]\nmodels = ["{model}"]', f"per_million = {_inline(tiers[''])}"]
        entry += [f"tiers.{tier}.per_million = {_inline(prices)}" for tier, prices in tiers.items() if tier]
        entries.append("\n".join(entry))
    yield "\n".join(['seller = "vendor"', head, *entries])
    engine = f'{{ gpu_hour = "{_GPU_HOUR}", gpus = {_GPUS}, slots = {_SLOTS} }}'
    yield "\n".join(['seller = "own/gpu"', head, f'[[entries]]\nmodels = ["*"]\nengine = {engine}'])


def _inline(prices: dict[str, str]) -> str:
    return "{ " + ", ".join(f'{name} = "{price}"' for name, price in prices.items()) + " }"


def _up(dollars: Fraction) -> int:
    """Return millionths, rounded half up."""
    return floor(dollars * 10**6 + Fraction(1, 2))
