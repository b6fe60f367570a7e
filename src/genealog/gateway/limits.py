"""What a principal may still use: requests and tokens a minute, money a day and a month.

Counted in one file for all workers of a gateway (`store.counters`), in UTC minutes, days and months. Requests are
counted before they are made, so never one too many. Tokens and money of a call are known only after it: they are
charged when the call is in the log (`store.charges`), so that a limit can be passed by the calls that were under way
when it was reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from genealog.errors import GenealogError, PolicyDenied
from genealog.store.counters import Allowed, Counters, Usage
from genealog.store.gateway_settings import Limits

_WHAT = {
    "requests": "requests_per_minute",
    "tokens": "tokens_per_minute",
    "day": "budget_per_day",
    "month": "budget_per_month",
}
Header = tuple[bytes, bytes]


class RateLimited(PolicyDenied):
    """Too much in this minute; `headers` say when it is over, in the words that vendors use."""

    http_status = 429
    headers: tuple[Header, ...] = ()


class BudgetSpent(PolicyDenied):
    """No money left in this day or month. Not 429: clients try those again by themselves."""

    http_status = 402
    headers: tuple[Header, ...] = ()


class Meter:
    """Counts requests against limits. Raises: nothing but what `Counters` raises."""

    def __init__(self, counters: Counters, clock: Callable[[], float] = time.time) -> None:
        self._counters = counters
        self._clock = clock

    def begin(self, name: str, limits: Limits, allowed: Allowed) -> GenealogError | None:
        """Count one request of the principal `name`, or say why it must not be made."""
        usage = self._counters.begin(name, allowed, self._clock())
        return None if usage.over is None else _refused(name, limits, usage)

    def close(self) -> None:
        """Let go of the counters."""
        self._counters.close()


def allowed_by(limits: Limits) -> Allowed | None:
    """Return what limits allow, as counted; None where they limit nothing."""
    found = Allowed(
        requests=limits.requests_per_minute,
        tokens=limits.tokens_per_minute,
        day=limits.budget_per_day,
        month=limits.budget_per_month,
    )
    return None if found == Allowed() else found


def _refused(name: str, limits: Limits, usage: Usage) -> GenealogError:
    what = usage.over or ""
    setting, bound = _WHAT[what], getattr(limits, _WHAT[what])
    if what in ("day", "month"):
        wait = _until(usage.at, what)
        spent = BudgetSpent(
            "budget-spent", f"the budget of {name} for this {what} is spent",
            got=_money(usage.day if what == "day" else usage.month, limits.currency),
            expected=f"less than {_money(bound, limits.currency)} ({setting})",
            hint=f"it begins again at the next UTC {what}, or raise it in [principals.{name}.limits]",
        )  # fmt: skip
        spent.headers = ((b"retry-after", b"%d" % wait),)
        return spent
    wait = 60 - int(usage.at) % 60
    limited = RateLimited(
        "rate-limited", f"{name} has used up its {what} of this minute",
        got=usage.requests if what == "requests" else usage.tokens, expected=f"≤ {bound} ({setting})",
        hint=f"try again in {wait} s",
    )  # fmt: skip
    limited.headers = ((b"retry-after", b"%d" % wait), *_rates(limits, usage, wait))
    return limited


def _rates(limits: Limits, usage: Usage, wait: int) -> Iterable[Header]:
    for kind, bound, used in (
        (b"requests", limits.requests_per_minute, usage.requests),
        (b"tokens", limits.tokens_per_minute, usage.tokens),
    ):
        if bound is not None:
            yield b"x-ratelimit-limit-" + kind, b"%d" % bound
            yield b"x-ratelimit-remaining-" + kind, b"%d" % max(0, bound - used)
            yield b"x-ratelimit-reset-" + kind, b"%ds" % wait


def _until(at: float, period: str) -> int:
    """Return how many seconds are left of a day or month."""
    if period == "day":
        return 86_400 - int(at) % 86_400
    now = datetime.fromtimestamp(at, UTC)
    next_month = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    return int(next_month.timestamp() - at) + 1


def _money(micro: int, currency: str) -> str:
    whole, part = divmod(micro, 1_000_000)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".") + f" {currency}"
