"""Who calls: keys wherever vendors' clients put theirs, certificates, claims, and what nobody may choose for others."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from genealog.core.call_groups import WhoGroup
from genealog.errors import GenealogError
from genealog.gateway.admission import Claimed, Who
from genealog.gateway.http1.head import PeerCertificate
from genealog.gateway.principals import QUERY, Principals, admission, upstream_query
from genealog.gateway.refusal import refusal, status_of
from genealog.store.api_keys import KEY, new_key
from genealog.store.config import Config, parse_config
from genealog.store.counters import Counters

BASE = '[store]\nformat = 1\norigin = "o"\n[identities]\nsigner = "a"\n[identities.a]\nname = "A"\nkey = "a"\n'
ID, SECRET_KEY, DIGEST = new_key()
OTHER_ID, OTHER_KEY, OTHER_DIGEST = new_key()
BILLING = f"""
[principals.billing]
department = "finance"
project = "invoices"
tenant = "acme"
tenants = ["acme-*"]
deployments = ["prod/*"]
spiffe = "spiffe://acme.example/billing"
[[principals.billing.keys]]
id = "{ID}"
sha256 = "{DIGEST}"
[principals.lab]
spiffe = "lab-client"
[[principals.lab.keys]]
id = "{OTHER_ID}"
sha256 = "{OTHER_DIGEST}"
expires = "2026-01-01T00:00:00.000Z"
"""
BEFORE, AFTER = 1_767_000_000.0, 1_767_900_000.0  # that end


@dataclass
class Request:
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    query: bytes = b""
    certificate: Any = None
    method: str = "POST"
    path: str = "/v1/chat/completions"
    peer: str = "127.0.0.1"


def config(text: str = BILLING, *, required: bool = True) -> Config:
    gateway = '[gateway]\nprincipals = "required"\n' if required else ""
    return parse_config((BASE + gateway + text).encode(), Path("genealog.toml"))


def principals(tmp_path: Path, text: str = BILLING, *, required: bool = True, now: float = BEFORE) -> Principals:
    return Principals(config(text, required=required), Counters(tmp_path / "counters"), clock=lambda: now)


def who(found: Who | GenealogError) -> Who:
    assert isinstance(found, Who), found
    WhoGroup(**{name: value for name, value in found.facts.items() if name != "subject"})  # a leaf can hold it
    return found


def code(found: object) -> tuple[str, int]:
    assert isinstance(found, GenealogError), found
    assert SECRET_KEY.rpartition("_")[2] not in str(found.problem())
    return found.code, status_of(found)


PLACES = [
    ([(b"authorization", b"Bearer " + SECRET_KEY.encode())], b"", b"authorization"),
    ([(b"authorization", b"bearer  " + SECRET_KEY.encode())], b"", b"authorization"),
    ([(b"authorization", SECRET_KEY.encode())], b"", b"authorization"),
    ([(b"x-api-key", SECRET_KEY.encode())], b"", b"x-api-key"),
    ([(b"api-key", SECRET_KEY.encode())], b"", b"api-key"),
    ([(b"x-goog-api-key", SECRET_KEY.encode())], b"", b"x-goog-api-key"),
    ([], b"alt=sse&key=" + SECRET_KEY.encode(), QUERY),
    ([], b"key=" + SECRET_KEY.replace("_", "%5F").encode(), QUERY),
    ([], b"%6bey=" + SECRET_KEY.encode(), QUERY),
]


@pytest.mark.parametrize(("headers", "query", "place"), PLACES, ids=range(len(PLACES)))
def test_a_key_is_known_wherever_a_client_puts_it_and_goes_no_further(
    tmp_path: Path, headers: list[tuple[bytes, bytes]], query: bytes, place: bytes
) -> None:
    found = who(principals(tmp_path).authenticate(Request(headers, query)))
    assert dict(found.facts) == {
        "principal": "billing", "department": "finance", "project": "invoices", "tenant": "acme",
        "how": "key", "key": ID,
    }  # fmt: skip
    assert found.withheld == {place}
    assert b"gl" not in upstream_query(query, found)


def test_a_vendors_key_passes_beside_ours(tmp_path: Path) -> None:
    headers = [(b"authorization", b"Bearer sk-vendor"), (b"x-api-key", SECRET_KEY.encode())]
    found = who(principals(tmp_path).authenticate(Request(headers, b"key=AIzaVendor&x=1")))
    assert found.withheld == {b"x-api-key"}
    assert upstream_query(b"key=AIzaVendor&x=1", found) == b"key=AIzaVendor&x=1"


def test_what_looks_like_a_key_and_is_none_is_refused_and_goes_nowhere(tmp_path: Path) -> None:
    for required in (True, False):
        made = principals(tmp_path, required=required)
        wrong = SECRET_KEY[:-1] + ("A" if SECRET_KEY[-1] != "A" else "B")
        for value in (wrong, SECRET_KEY[:-1], new_key()[1], "gl_", f"gl_{ID}_"):
            assert code(made.authenticate(Request([(b"x-api-key", value.encode())]))) == ("key-unknown", 401)
        both = [(b"x-api-key", SECRET_KEY.encode()), (b"api-key", OTHER_KEY.encode())]
        assert code(made.authenticate(Request(both))) == ("key-unknown", 401)


def test_who_shows_nothing_is_refused_or_claims(tmp_path: Path) -> None:
    claim = Request([(b"genealog-principal", b"billing"), (b"authorization", b"Bearer sk-vendor")])
    assert code(principals(tmp_path).authenticate(claim)) == ("principal-missing", 401)
    found = who(principals(tmp_path, required=False).authenticate(claim))
    assert dict(found.facts) == {"principal": "billing", "how": "claimed"}
    assert found.withheld == frozenset()


def test_a_refusal_says_how_to_authenticate(tmp_path: Path) -> None:
    refused = principals(tmp_path).authenticate(Request())
    assert isinstance(refused, GenealogError)
    status, headers, body = refusal(refused)
    assert status == 401
    assert b"www-authenticate" in dict(headers)
    assert b"principal-missing" in body


def test_a_key_expires(tmp_path: Path) -> None:
    now = [BEFORE]
    made = Principals(config(), Counters(tmp_path / "counters"), clock=lambda: now[0])
    request = Request([(b"x-api-key", OTHER_KEY.encode())])
    assert who(made.authenticate(request)).facts["principal"] == "lab"
    now[0] = AFTER  # also for one that was seen before
    assert code(made.authenticate(request)) == ("key-expired", 401)


def test_headers_cannot_speak_for_whoever_has_a_key(tmp_path: Path) -> None:
    key = (b"x-api-key", SECRET_KEY.encode())
    made = principals(tmp_path)
    claims = [(b"genealog-department", b"hr"), (b"genealog-principal", b"lab"), (b"genealog-project", b"x")]
    found = who(made.authenticate(Request([key, *claims, (b"genealog-subject", b"jane")])))
    assert (found.facts["department"], found.facts["principal"]) == ("finance", "billing")
    assert (found.facts["project"], found.facts["subject"]) == ("invoices", "jane")
    assert who(made.authenticate(Request([key, (b"genealog-tenant", b"acme-7")]))).facts["tenant"] == "acme-7"
    assert who(made.authenticate(Request([key, (b"genealog-tenant", b"acme")]))).facts["tenant"] == "acme"
    refused = made.authenticate(Request([key, (b"genealog-tenant", b"other")]))
    assert code(refused) == ("tenant-not-allowed", 403)


def test_a_certificate_is_known_by_its_spiffe_id_or_by_its_common_name(tmp_path: Path) -> None:
    made = principals(tmp_path)
    svid = PeerCertificate("anything", ("spiffe://acme.example/billing",), "00")
    assert who(made.authenticate(Request(certificate=svid))).facts["how"] == "mtls"
    assert who(made.authenticate(Request(certificate=PeerCertificate("lab-client", (), "01")))).facts == {
        "principal": "lab", "how": "mtls",
    }  # fmt: skip
    for wrong in (
        PeerCertificate("lab-client", ("spiffe://acme.example/other",), "02"),  # its URI says who it is
        PeerCertificate("spiffe://acme.example/billing", ("https://x",), "03"),
        PeerCertificate(None, (), "04"),
    ):
        assert code(made.authenticate(Request(certificate=wrong)))[0] == "principal-missing"
    both = Request([(b"x-api-key", SECRET_KEY.encode())], certificate=PeerCertificate("lab-client", (), "01"))
    assert who(made.authenticate(both)).facts["how"] == "key"


def test_a_principal_may_ask_for_what_its_patterns_fit(tmp_path: Path) -> None:
    made = principals(tmp_path)
    found = who(made.authenticate(Request([(b"x-api-key", SECRET_KEY.encode())])))
    assert made.admit(found, "prod/bot") is None
    assert code(made.admit(found, "test/bot")) == ("deployment-not-allowed", 403)
    assert made.admit(who(principals(tmp_path, required=False).authenticate(Request())), "test/bot") is None


def test_a_revoked_key_is_refused_a_second_later(tmp_path: Path) -> None:
    now, given = [BEFORE], [None, config(BILLING.replace(ID, "z" * 12))]
    made = Principals(config(), Counters(tmp_path / "c"), clock=lambda: now[0], reread=lambda: given.pop(0))
    request = Request([(b"x-api-key", SECRET_KEY.encode())])
    for later in (0.0, 0.5, 1.2):
        now[0] = BEFORE + later
        assert isinstance(made.authenticate(request), Who)
    now[0] = BEFORE + 2.3
    assert code(made.authenticate(request)) == ("key-unknown", 401)


def test_settings_that_cannot_be_read_leave_those_that_were_good(tmp_path: Path) -> None:
    file = tmp_path / "genealog.toml"
    file.write_text(BASE + '[gateway]\nprincipals = "required"\n' + BILLING)
    made: Any = admission(parse_config(file.read_bytes(), file), tmp_path)
    request = Request([(b"x-api-key", SECRET_KEY.encode())])
    assert isinstance(made.authenticate(request), Who)
    file.write_text("nonsense = ")
    made._looked = 0.0
    assert isinstance(made.authenticate(request), Who)
    file.write_text(BASE + '[gateway]\nprincipals = "required"\n')
    made._looked = 0.0
    assert code(made.authenticate(request)) == ("key-unknown", 401)


def test_who_reads_the_settings_by_itself_stays_when_they_are_read_again(tmp_path: Path) -> None:
    made = admission(config(), tmp_path)
    assert admission(config(""), tmp_path, made) is made
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        claimed = admission(config("", required=False), tmp_path, made)
        made.close()
        made = admission(config(), tmp_path, claimed)
        assert isinstance(made, Principals)
    made.close()
    assert len(list(Path("/proc/self/fd").iterdir())) < open_files


def test_without_principals_everybody_claims(tmp_path: Path) -> None:
    assert isinstance(admission(config("", required=False), tmp_path), Claimed)
    assert isinstance(admission(config(""), tmp_path), Principals)


def test_a_key_is_long_random_and_kept_as_a_digest() -> None:
    assert KEY.fullmatch(SECRET_KEY.encode())
    assert hashlib.sha256(SECRET_KEY.encode()).hexdigest() == DIGEST
    assert len(re.sub(r"^gl_[0-9a-z]{12}_", "", SECRET_KEY)) * 6 >= 192
    assert len({new_key()[1] for _ in range(64)}) == 64


def test_what_is_kept_of_callers_is_bounded(tmp_path: Path) -> None:
    made = principals(tmp_path)
    for number in range(5_000):
        made.authenticate(Request([(b"x-api-key", SECRET_KEY.encode()), (b"genealog-subject", b"%d" % number)]))
    assert len(made._seen) <= 4_096


def test_a_known_key_costs_microseconds(tmp_path: Path) -> None:
    made = principals(tmp_path)
    plain = [(b"x-header-%d" % n, b"v") for n in range(10)]
    request = Request([*plain, (b"authorization", b"Bearer " + SECRET_KEY.encode())])
    made.authenticate(request)
    best = min(_timed(lambda: made.authenticate(request)) for _ in range(20))
    assert best < 50e-6  # a few on a quiet machine; the figure is in ADR 0032


def _timed(action: Any, times: int = 500) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - begun) / times
