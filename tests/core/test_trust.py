from __future__ import annotations

from itertools import chain, combinations
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.note import Cosigner, NoteSigner, encode_note, format_vkey, make_verifier, signature_line
from genealog.core.trust import Group, Trust, parse_trust
from genealog.errors import MalformedError, VerificationError

VECTORS = Path(__file__).parents[1] / "vectors/log"
WITNESSED = (VECTORS / "witnessed.checkpoint").read_bytes()
LOG_VKEY = "log.example/genealog+28938aa2+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
WITNESS_VKEY = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"


def ed25519(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))


def mldsa(seed: int) -> MLDSA44PrivateKey:
    return MLDSA44PrivateKey.from_seed_bytes(seed.to_bytes(32, "big"))


LOG = NoteSigner("log.example/one", ed25519(1))
CHECKPOINT = Checkpoint("log.example/one", 7, bytes(range(32)))
SIGNED = sign_checkpoint(CHECKPOINT, LOG)
TEXT = CHECKPOINT.encode()
NAMES = ("X1", "X2", "X3", "Y1", "Y2", "Y3")
WITNESSES = {name: Cosigner(f"witness.example/{name}", ed25519(10 + at)) for at, name in enumerate(NAMES)}
WITNESS_LINES = "".join(f"witness {name} {format_vkey(each.verifier)}\n" for name, each in WITNESSES.items())
LOG_LINE = f"log {format_vkey(LOG.verifier)}\n"


def trust(text: str) -> Trust:
    return parse_trust(text.encode())


def with_quorum(lines: str) -> Trust:
    return trust(LOG_LINE + WITNESS_LINES + lines)


def cosigned(*names: str) -> bytes:
    return SIGNED + b"".join(WITNESSES[name].cosign(TEXT, 1000 + at) for at, name in enumerate(names))


def subsets() -> chain[tuple[str, ...]]:
    return chain.from_iterable(combinations(NAMES, count) for count in range(len(NAMES) + 1))


def accepts(policy: Trust, data: bytes) -> bool:
    try:
        return policy.verify_checkpoint(data) == CHECKPOINT
    except VerificationError as error:
        if error.code != "quorum-not-met":
            raise
        return False


def refused(policy: Trust, data: bytes, code: str) -> None:
    with pytest.raises(VerificationError) as caught:
        policy.verify_checkpoint(data)
    assert caught.value.code == code


def test_vector() -> None:
    policy = parse_trust((VECTORS / "witnessed.trust").read_bytes())
    opened = policy.open_checkpoint(WITNESSED)
    assert (opened.checkpoint.origin, opened.checkpoint.size) == ("log.example/genealog", 8)
    assert opened.cosigned_at == {"w1": 1767225600}


def test_the_example_of_the_specification() -> None:
    policy = with_quorum(
        "group X-witnesses 2 X1 X2 X3\ngroup Y-witnesses any Y1 Y2 Y3\n"
        "group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n"
    )
    assert policy.groups["X-and-Y"] == Group(2, ("X-witnesses", "Y-witnesses"))
    for names in subsets():
        expected = sum(name[0] == "X" for name in names) >= 2 and any(name[0] == "Y" for name in names)
        assert accepts(policy, cosigned(*names)) is expected


@pytest.mark.parametrize("threshold", ["1", "2", "3", "4", "5", "6", "all", "any"])
def test_thresholds(threshold: str) -> None:
    policy = with_quorum(f"group all {threshold} {' '.join(NAMES)}\nquorum all\n")
    wanted = {"all": 6, "any": 1}.get(threshold) or int(threshold)
    for names in subsets():
        assert accepts(policy, cosigned(*names)) is (len(names) >= wanted)


def test_one_witness_is_a_quorum() -> None:
    policy = with_quorum("quorum Y2\n")
    for names in subsets():
        assert accepts(policy, cosigned(*names)) is ("Y2" in names)


def test_quorum_none_asks_for_no_witness_and_still_checks_those_that_came() -> None:
    policy = with_quorum("quorum none\n")
    assert policy.verify_checkpoint(SIGNED) == CHECKPOINT
    opened = policy.open_checkpoint(cosigned("X2", "Y1"))
    assert opened.cosigned_at == {"X2": 1000, "Y1": 1001}
    broken = SIGNED + signature_line(WITNESSES["X1"].verifier, bytes(72))
    refused(policy, broken, "checkpoint-signature-invalid")


def test_a_cosignature_twice_counts_once_with_its_latest_time() -> None:
    policy = with_quorum("group two 2 X1 X2\nquorum two\n")
    twice = SIGNED + WITNESSES["X1"].cosign(TEXT, 9) + WITNESSES["X1"].cosign(TEXT, 5)
    assert not accepts(policy, twice)
    assert with_quorum("quorum none\n").open_checkpoint(twice).cosigned_at == {"X1": 9}


def test_the_log_itself_must_sign() -> None:
    unsigned = encode_note(TEXT, [each.cosign(TEXT, 5) for each in WITNESSES.values()])
    refused(with_quorum("quorum X1\n"), unsigned, "checkpoint-signature-invalid")
    stranger = sign_checkpoint(CHECKPOINT, NoteSigner(LOG.name, ed25519(99)))
    refused(with_quorum("quorum none\n"), stranger, "checkpoint-signature-invalid")


def test_a_log_cannot_speak_for_another() -> None:
    other = NoteSigner("log.example/other", ed25519(2))
    policy = trust(LOG_LINE + f"log {format_vkey(other.verifier)}\nquorum none\n")
    refused(policy, encode_note(TEXT, [other.sign(TEXT)]), "checkpoint-signature-invalid")
    mine = Checkpoint("log.example/other", 7, bytes(32))
    assert policy.verify_checkpoint(sign_checkpoint(mine, other)) == mine


def test_unknown_log() -> None:
    refused(trust("quorum none\n"), SIGNED, "unknown-log")
    refused(trust(LOG_LINE + "quorum none\n"), WITNESSED, "unknown-log")


def test_either_key_of_a_rotated_log_is_enough() -> None:
    new = NoteSigner(LOG.name, ed25519(3))
    policy = trust(LOG_LINE + f"log {format_vkey(new.verifier)}\nquorum none\n")
    assert policy.logs[LOG.name] == (LOG.verifier, new.verifier)
    for data in (SIGNED, sign_checkpoint(CHECKPOINT, new), sign_checkpoint(CHECKPOINT, LOG, new)):
        assert policy.verify_checkpoint(data) == CHECKPOINT
    half = SIGNED + signature_line(new.verifier, bytes(64))
    refused(policy, half, "checkpoint-signature-invalid")


def test_mldsa_logs_and_witnesses() -> None:
    log, witness = Cosigner(LOG.name, mldsa(1)), Cosigner("witness.example/pq", mldsa(2))
    policy = trust(f"log {format_vkey(log.verifier)}\nwitness W {format_vkey(witness.verifier)}\nquorum W\n")
    data = encode_note(TEXT, [log.cosign(TEXT, 5), witness.cosign(TEXT, 6)])
    assert policy.open_checkpoint(data).cosigned_at == {"W": 6}
    extended = Checkpoint(LOG.name, 7, bytes(range(32)), ("not covered",)).encode()
    swapped = encode_note(extended, [log.cosign(TEXT, 5), witness.cosign(TEXT, 6)])
    refused(policy, swapped, "checkpoint-signature-invalid")


def test_malformed_notes_stay_malformed() -> None:
    policy = trust(LOG_LINE + "quorum none\n")
    for data, code in ((b"", "note-malformed"), (encode_note(b"x\n", [LOG.sign(b"x\n")]), "checkpoint-malformed")):
        with pytest.raises(MalformedError) as caught:
            policy.verify_checkpoint(data)
        assert caught.value.code == code


def test_comments_blank_lines_white_space_and_urls() -> None:
    x1 = format_vkey(WITNESSES["X1"].verifier)
    policy = trust(
        f"# comment\n\n \t \n\t# indented é\n  log\t{LOG_VKEY}  https://log.example/ \n\twitness  w-é\t{x1} https://w.example\n"
        "quorum w-é\n# after the quorum\n"
    )
    assert list(policy.logs) == ["log.example/genealog"]
    assert (list(policy.witnesses), policy.quorum) == (["w-é"], "w-é")


def test_names_are_opaque_octets() -> None:
    x1, x2 = (format_vkey(WITNESSES[name].verifier).encode() for name in ("X1", "X2"))
    data = b"witness \xe2\x84\xaa %b\nwitness K %b\ngroup \xff all K \xe2\x84\xaa\nquorum \xff\n" % (x1, x2)
    assert parse_trust(data).groups["\udcff"] == Group(2, ("K", "\u212a"))  # the Kelvin sign is no K
    # U+00A0 and U+0085 are white space for Python and part of a name here
    assert list(parse_trust(b"witness a\xc2\xa0b\xc2\x85c %b\nquorum none\n" % x1).witnesses) == ["a\u00a0b\u0085c"]


def test_a_witness_may_be_a_log_and_a_quorum_may_stand_early() -> None:
    same = Cosigner(LOG.name, ed25519(1))
    policy = trust(f"witness W {format_vkey(same.verifier)}\nquorum W\n{LOG_LINE}")
    assert policy.verify_checkpoint(SIGNED + same.cosign(TEXT, 5)) == CHECKPOINT


def test_forty_of_each() -> None:
    lines = [f"log {format_vkey(NoteSigner(f'log.example/{n}', ed25519(100 + n)).verifier)}" for n in range(40)]
    lines += [f"witness w{n} {format_vkey(Cosigner(f'w.example/{n}', mldsa(n)).verifier)}" for n in range(40)]
    lines += ["group g0 any w0", *(f"group g{n} all w{n} g{n - 1}" for n in range(1, 40)), "quorum g39", ""]
    policy = trust("\n".join(lines))
    assert (len(policy.logs), len(policy.witnesses), len(policy.groups)) == (40, 40, 40)


X1_VKEY = format_vkey(WITNESSES["X1"].verifier)
SAME_KEY_OTHER_NAME = format_vkey(make_verifier("other.example", 4, WITNESSES["X1"].verifier.public))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "exactly one quorum"),
        (LOG_LINE, "exactly one quorum"),
        ("quorum none\nquorum none\n", "exactly one quorum"),
        ("quorum none", "line feed"),
        ("quorum\n", "line 1"),
        ("quorum none none\n", "line 1"),
        ("quorum X1\n" + WITNESS_LINES, "line 1: no line above"),
        ("\n\nquorum nobody\n", "line 3: no line above"),
        ("quorum none\r\n", "control"),
        ("quorum none\n# \x0b\n", "control"),
        ("quorum none\n# \x7f\n", "control"),
        ("quorum none\n\x00", "control"),
        ("Quorum none\n", "line 1: not a log"),
        ("quorum\u00a0none\n", "line 1: not a log"),
        ("sigsum x\nquorum none\n", "line 1: not a log"),
        ("log\nquorum none\n", "line 1: not a log"),
        (f"log {LOG_VKEY} url more\nquorum none\n", "line 1: not a log"),
        (f"log {LOG_VKEY} # comment more\nquorum none\n", "line 1: not a log"),
        ("log junk\nquorum none\n", "line 1: not a verifier key"),
        (f"log {LOG_VKEY.replace('28938aa2', '28938aa3')}\nquorum none\n", "line 1: the key ID"),
        (f"log {WITNESS_VKEY}\nquorum none\n", "wrong type"),
        (f"witness w {LOG_VKEY}\nquorum none\n", "wrong type"),
        (f"log {LOG_VKEY}\nlog {LOG_VKEY}\nquorum none\n", "line 2: the same key"),
        (f"witness a {X1_VKEY}\nwitness b {X1_VKEY}\nquorum none\n", "line 2: the same key"),
        (f"witness a {X1_VKEY}\nwitness b {SAME_KEY_OTHER_NAME}\nquorum none\n", "line 2: the same key"),
        (f"witness {X1_VKEY}\nquorum none\n", "line 1: not a log"),
        (f"witness a {X1_VKEY} url more\nquorum none\n", "line 1: not a log"),
        (f"witness none {X1_VKEY}\nquorum none\n", "line 1: this name is taken"),
        (WITNESS_LINES + f"witness X1 {WITNESS_VKEY}\nquorum none\n", "line 7: this name is taken"),
        (WITNESS_LINES + "group X1 all X2\nquorum none\n", "this name is taken"),
        (WITNESS_LINES + "group none all X2\nquorum none\n", "this name is taken"),
        (WITNESS_LINES + "group g all X1\ngroup g all X2\nquorum none\n", "this name is taken"),
        (WITNESS_LINES + "group g all X1\nwitness g " + WITNESS_VKEY + "\nquorum none\n", "this name is taken"),
        (WITNESS_LINES + "group g all\nquorum none\n", "line 7: not a log"),
        (WITNESS_LINES + "group g all nobody\nquorum none\n", "no line above"),
        (WITNESS_LINES + "group g all none\nquorum none\n", "no line above"),
        (WITNESS_LINES + "group g all g\nquorum none\n", "no line above"),
        (WITNESS_LINES + "group g all h\ngroup h all X1\nquorum none\n", "no line above"),
        (WITNESS_LINES + "group g all X1 X1\nquorum none\n", "member twice"),
        (WITNESS_LINES + "group g all X1\ngroup h all X1\nquorum none\n", "member twice"),
        (WITNESS_LINES + "group g 0 X1\nquorum none\n", "not a threshold"),
        (WITNESS_LINES + "group g 01 X1\nquorum none\n", "not a threshold"),
        (WITNESS_LINES + "group g -1 X1\nquorum none\n", "not a threshold"),
        (WITNESS_LINES + "group g 1.0 X1\nquorum none\n", "not a threshold"),
        (WITNESS_LINES + "group g ALL X1\nquorum none\n", "not a threshold"),
        (WITNESS_LINES + "group g 2 X1\nquorum none\n", "more are wanted"),
        ("# " + "x" * 1_000_000 + "\nquorum none\n", "size"),
    ],
    ids=lambda value: value if len(value) < 40 else "",
)
def test_malformed(text: str, why: str) -> None:
    with pytest.raises(MalformedError, match=why) as caught:
        trust(text)
    assert caught.value.code == "trust-malformed"


def test_every_cut_of_a_trust_file_is_refused() -> None:
    text = LOG_LINE + WITNESS_LINES + "group X-witnesses 2 X1 X2 X3\nquorum X-witnesses\n"
    for length in range(len(text)):
        with pytest.raises(MalformedError):
            trust(text[:length])


def test_urls_are_kept_for_those_who_talk_to_others() -> None:
    log, witness = LOG.verifier, WITNESSES["X1"].verifier
    text = f"log {format_vkey(log)} https://l/\nwitness a {format_vkey(witness)} https://w/\nquorum none\n"
    assert parse_trust(text.encode()).urls == {format_vkey(log): "https://l/", "a": "https://w/"}
    assert parse_trust(text.replace(" https://l/", "").replace(" https://w/", "").encode()).urls == {}
