"""Random bytes against both sides of HTTP/1.1, seeded: `python tests/gateway/http1/fuzz.py --inputs 1000000`.

Half are made by a grammar that likes to break rules, half are the corpus, mutated. Of each input holds:
nothing is raised; cut at random, it becomes the same; no application gets more bytes than the limits allow; and what we
accept, h11 and llhttp accept too and read as the same messages.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.http1.kit import Parsed, cut, parse_requests, parse_response
from gateway.http1.oracles import Verdict, h11_requests, h11_response, llhttp_requests, llhttp_response
from genealog.gateway.http1 import Limits

LIMITS = Limits(head=400, headers=12, body=120, chunk_line=24, chunk_extensions=40, trailers=60, interim=3)
METHODS = [
    b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"get", b"G T", b"", b"M-SEARCH", b"\x16",
]  # fmt: skip
TARGETS = [
    b"/", b"/a?b=c", b"*", b"http://a/", b"//a", b"/ /", b"", b"a", b"/#a", b"/\xff", b"/%00", b"/\x7f", b"/a\tb",
]  # fmt: skip
NAMES = [
    b"Content-Length", b"content-length", b"Transfer-Encoding", b"TRANSFER-ENCODING", b"Host", b"Connection", b"Expect",
    b"Upgrade", b"X", b"X-Y", b"Trailer", b"", b"X Y", b"Content-Length ", b" Content-Length", b"\tX", b"X\x00",
    b"Content_Length", b"Keep-Alive", b"Proxy-Connection", b"\xc3\xa4", b"TE", b"Content\xe2\x80\x91Length",
]  # fmt: skip
VERSIONS = [
    *[b"HTTP/1.1"] * 8,
    *[b"HTTP/1.0"] * 2,
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"http/1.1",
    b"",
    b"HTTP/1.1 ",
    b"HTTP/1.2",
]
VALUES = [
    b"0", b"1", b"5", b"5", b"05", b"+5", b"-1", b"5,5", b"5, 6", b"0x5", b"5 5", b"99", b"121",
    b"18446744073709551621", b"chunked", b"chunked", b"Chunked", b"chunked, chunked", b"gzip, chunked", b"xchunked",
    b"chunked;x", b"\x0bchunked", b"chunked ", b"identity", b"close", b"keep-alive", b"close, x", b"upgrade",
    b"100-continue", b"a", b"a:80", b"[::1]", b"a b", b"", b"\xff", b"a\x00", b"a\rb", b"a\nb", b"a\r\n b",
    b"websocket", b"h2c", b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
]  # fmt: skip
SIZES = [
    b"0", b"1", b"5", b"05", b"5;a", b"5;a=b", b'5;a="\r\n"', b"5 ", b" 5", b"+5", b"0x5", b"A", b"-1", b"", b"5;",
    b"FFFFFFFFFFFFFFFFF", b"79", b"5;a\n",
]  # fmt: skip
STATUS = [
    b"200 OK", b"200", b"204 No", b"304 Not", b"100 Continue", b"103 Hints", b"101 Up", b"600 X", b"20 X", b"2000",
    b"500 ",
]  # fmt: skip
DATA = [
    b"hello", b"hello", b"", b"a", b"0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n",
    b"\r\n", b"\n",
]  # fmt: skip
BAD_ENDS = [b"\n", b"\r", b"\r\r\n", b"\n\r", b"", b"\r\n ", b"\r\n\t", b"\x00\r\n", b"\r\n\r\n"]
ENDS = [*[b"\r\n"] * 30, *BAD_ENDS]
SIGNS = [b":", b": ", b" ", b";", b"\t", b"\x00", b"\xff", b"0\r\n\r\n"]
PIECES = [*BAD_ENDS, *NAMES, *VALUES, *SIZES, *DATA, *METHODS, *VERSIONS, *SIGNS]
CORPUS = [
    (
        "".join(part if isinstance(part, str) else part[0] * min(part[1], 70) for part in case["bytes"]).encode(
            "latin-1"
        ),
        case["side"],
    )
    for case in map(json.loads, Path(__file__).with_name("smuggling.jsonl").read_text().splitlines())
]
SEEDS = {side: [stream for stream, of in CORPUS if of == side] for side in ("request", "response")}


EXCUSES = {
    "no request line received",  # h11: an empty line before a request, which RFC 9112 §2.2 wants to be ignored
    "HttpParserError: Data after `Connection: close`",  # llhttp: Proxy-Connection, which no RFC knows, counts too
}


class FindingError(AssertionError):
    """An input that breaks an invariant."""


def chunked(source: random.Random) -> bytes:
    """Return a body in chunks, mostly a good one."""
    parts = []
    for _ in range(source.choice((0, 1, 1, 2, 3))):
        data = source.choice(DATA)
        if source.random() < 0.85:
            size = b"%x" % len(data)
            if not data:
                continue
        else:
            size = source.choice(SIZES)
        parts += [size, source.choice(ENDS), data, source.choice(ENDS)]
    parts += [b"0" if source.random() < 0.95 else source.choice(SIZES), source.choice(ENDS)]
    for _ in range(source.choice((0, 0, 0, 0, 1, 2))):
        parts += [source.choice(NAMES), b": ", source.choice(VALUES), source.choice(ENDS)]
    parts.append(source.choice(ENDS))
    return b"".join(parts)


def message(source: random.Random, *, answer: bool) -> bytes:
    """Return a message of the grammar."""
    pick = source.choice
    good = source.random() < 0.7
    ends = ENDS if not good else [b"\r\n"]
    if answer:
        parts = [
            pick(VERSIONS if not good else VERSIONS[:9]),
            b" ",
            pick(STATUS if not good else STATUS[:3]),
            pick(ends),
        ]
    else:
        parts = [
            pick(METHODS if not good else METHODS[:4]), b" ", pick(TARGETS if not good else TARGETS[:2]), b" ",
            pick(VERSIONS if not good else VERSIONS[:9]), pick(ends),
        ]  # fmt: skip
        if source.random() < 0.93:
            parts += [b"Host: a", pick(ends)]
    for _ in range(pick((0, 0, 1, 1, 2, 3))):
        parts += [
            pick(NAMES if not good else NAMES[8:11]),
            pick((b": ", b":", b":\t", b" : ") if not good else (b": ", b":")),
            pick(VALUES),
            pick(ends),
        ]
    way = source.random()
    if way < 0.4:
        body = pick(DATA)
        parts += [
            b"Content-Length: %d" % (len(body) if source.random() < 0.9 else pick((0, 4, 6, 30))),
            pick(ends),
            pick(ends),
            body,
        ]
    elif way < 0.8:
        parts += [b"Transfer-Encoding: chunked", pick(ends), pick(ends), chunked(source)]
    else:
        parts += [pick(ends), pick(DATA) if source.random() < 0.3 else b""]
    return b"".join(parts)


def mutate(source: random.Random, stream: bytes, others: list[bytes]) -> bytes:
    """Return `stream` with one to four things changed."""
    data = bytearray(stream)
    for _ in range(source.choice((1, 1, 1, 2, 2, 3, 4))):
        at = source.randrange(len(data) + 1)
        way = source.randrange(7)
        if way == 0 and at < len(data):
            data[at] = (
                source.choice(b"\r\n\t \x00:;,0159afAF\x7f\x80\xff\x0b")
                if source.random() < 0.7
                else source.randrange(256)
            )
        elif way == 1:
            del data[at : at + source.choice((1, 1, 1, 2, 5, 20))]
        elif way == 2:
            data[at:at] = source.choice(PIECES)
        elif way == 3:
            data[at:at] = data[at : at + source.choice((1, 2, 10, 40))]
        elif way == 4:
            other = source.choice(others)
            data[at:] = other[source.randrange(len(other) + 1) :]
        elif way == 5:
            data += source.choice(others)
        else:
            lines = bytes(data).split(b"\r\n")
            i, j = source.randrange(len(lines)), source.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            data = bytearray(b"\r\n".join(lines))
    return bytes(data[:2000])


def one_input(source: random.Random) -> tuple[bytes, bool]:
    """Return a stream, and whether it is one of answers."""
    answer = source.random() < 0.35
    seeds = SEEDS["response" if answer else "request"]
    if source.random() < 0.5:
        return mutate(source, source.choice(seeds), seeds), answer
    stream = b"".join(message(source, answer=answer) for _ in range(source.choice((1, 1, 2, 3))))
    return (mutate(source, stream, seeds) if source.random() < 0.3 else stream), answer


def random_cut(source: random.Random, stream: bytes) -> list[bytes]:
    """Return the stream in pieces; now and then byte by byte."""
    size = len(stream)
    if size < 2:
        return cut(stream, [])
    if source.random() < 0.1:
        return cut(stream, range(1, size))
    return cut(stream, sorted(source.sample(range(1, size), min(size - 1, source.choice((1, 1, 2, 4, 9))))))


def excused(error: str | None) -> bool:
    """Say whether a judge refuses for a reason that is ours to decide."""
    return error in EXCUSES


def check_requests(source: random.Random, stream: bytes) -> Parsed:
    """Check all invariants of one stream of requests."""
    whole = parse_requests(cut(stream, []), LIMITS)
    pieces = random_cut(source, stream)
    other = parse_requests(pieces, LIMITS)
    if (whole.messages, whole.end) != (other.messages, other.end):
        raise FindingError(f"cuts change it: {whole} but {other} of {pieces}")
    for method, target, headers, body in whole.messages:
        if len(body) > 120 or len(headers) > 12 or len(method) + len(target) > 400:
            raise FindingError(f"over a limit: {whole}")
    if whole.messages:
        ours = list(whole.messages)
        for judge, verdict in (("h11", h11_requests(stream)), ("llhttp", llhttp_requests(stream))):
            _compare(ours, verdict, judge)
    return whole


def _compare(
    ours: list[tuple[str, bytes, tuple[tuple[bytes, bytes], ...], bytes]], verdict: Verdict, judge: str
) -> None:
    theirs = verdict.messages[: len(ours)]
    if _plain(theirs) != _plain(ours[: len(theirs)]):
        raise FindingError(f"{judge} reads {theirs}, we read {ours}")
    if len(theirs) < len(ours) and not excused(verdict.error):
        raise FindingError(f"{judge} refuses ({verdict.error}) after {len(theirs)} what we accept: {ours}")


def _plain(messages: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return messages as h11 writes them: the name of the coding in lower case."""
    return [
        (
            *rest,
            tuple((name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers),
            body,
        )
        for *rest, headers, body in messages
    ]


def check_response(source: random.Random, stream: bytes) -> str:
    """Check all invariants of one stream of answers; return how it ended."""
    method = source.choice(("POST", "POST", "GET", "HEAD"))
    eof = source.random() < 0.5
    whole = parse_response(cut(stream, []), method=method, eof=eof, limits=LIMITS)
    pieces = random_cut(source, stream)
    other = parse_response(pieces, method=method, eof=eof, limits=LIMITS)
    if whole != other:
        raise FindingError(f"cuts change it: {whole} but {other} of {pieces}")
    if len(whole.headers) > 12 or len(whole.body) > len(stream):
        raise FindingError(f"over a limit: {whole}")
    if whole.end == "end":
        ours = (whole.status, whole.body)
        verdict = h11_response(stream, method, eof=eof)
        if verdict.messages != [ours] and not excused(verdict.error):
            raise FindingError(f"h11 reads {verdict}, we read {whole}")
        if method != "HEAD" and whole.kept:
            verdict = llhttp_response(stream)
            final = [each for each in verdict.messages if isinstance(each[0], int) and each[0] >= 200][:1]
            if final != [ours] and not excused(verdict.error):
                raise FindingError(f"llhttp reads {verdict}, we read {whole}")
    return whole.end


def run(inputs: int, seed: int, *, stop: bool = True) -> tuple[Counter[str], list[tuple[bytes, str]]]:
    """Check as many inputs; return how they ended, and the findings."""
    counts: Counter[str] = Counter()
    findings: list[tuple[bytes, str]] = []
    for number in range(inputs):
        source = random.Random(f"{seed} {number}")
        stream, answer = one_input(source)
        try:
            if answer:
                counts["answer: " + check_response(source, stream)] += 1
            else:
                parsed = check_requests(source, stream)
                counts[f"request: {'some accepted, then ' if parsed.messages else ''}{parsed.end}"] += 1
        except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
            findings.append((stream, f"{type(error).__name__}: {error}"))
            counts["FINDING"] += 1
            if stop:
                break
    return counts, findings


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first finding")
    options = parser.parse_args()
    begin = time.perf_counter()
    counts, findings = run(options.inputs, options.seed, stop=not options.go_on)
    print(f"{sum(counts.values())} inputs in {time.perf_counter() - begin:.0f} s (seed {options.seed})")
    for name, count in counts.most_common():
        print(f"{count:10}  {name}")
    for stream, finding in findings[:25]:
        print(f"\n{stream!r}\n{finding}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
