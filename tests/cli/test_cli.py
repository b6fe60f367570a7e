"""The command line as its users meet it: exit statuses, errors with hints, JSON, and what it prints."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from command_line import Cli


def test_no_store_says_what_to_do(cli: Cli) -> None:
    ran = cli("ls")
    assert ran.status == 3
    assert "no-store" in ran.err
    assert "genealog init" in ran.err


def test_an_error_is_json_where_json_was_asked_for(cli: Cli) -> None:
    ran = cli("ls", "--json")
    assert ran.json["error"]["code"] == "no-store"
    assert ran.json["error"]["type"] == "urn:genealog:error:no-store"


def test_init_takes_its_place_as_other_commands_do(cli: Cli, tmp_path: Path) -> None:
    ran = cli("init", "--store", "here", "--json")
    assert (ran.status, ran.json["store"]) == (0, "here")
    assert cli("fsck", "--store", "here").status == 0
    assert cli("init", "one", "--store", "two").status == 2
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "two").exists()


def test_adding_again_changes_nothing(cli: Cli, store: Path) -> None:
    first = cli("ls", "--json").json
    ran = cli("add", "model", "--kind", "model", "--json")
    assert ran.json["new"] is False
    assert cli("ls", "--json").json == first


def test_adding_known_bytes_as_something_else_says_that_nothing_changed(cli: Cli, store: Path) -> None:
    ran = cli("add", "model", "--kind", "dataset")
    assert ran.status == 0
    assert "stand as model at registry:2" in ran.out


def test_a_misspelt_value_is_told_with_the_list_and_a_guess(cli: Cli, store: Path) -> None:
    ran = cli("add", "model", "--kind", "modle")
    told = " ".join(ran.err.replace("│", " ").split())
    assert ran.status == 2
    assert "'--kind': 'modle' is not one of 'model', 'adapter', 'checkpoint'" in told
    assert "Did you mean 'model'?" in told


def test_evidence_without_a_policy_says_which_option_is_missing(cli: Cli, store: Path) -> None:
    assert cli("receipt", "registry:2", "-o", "r.json").status == 0
    ran = cli("verify", "r.json")
    assert (ran.status, "without --trust FILE nobody is believed" in ran.out) == (3, True)
    assert "without --trust" not in cli("verify", "r.json", "--trust", ".genealog/trust.policy").out


def test_a_path_of_other_files_says_what_path_means(cli: Cli, store: Path, tmp_path: Path) -> None:
    made = cli("run", "--input", "base=model", "--output", "out.npz=model:tuned", "--", sys.executable, "-c",
               "open('out.npz', 'w').write('x')")  # fmt: skip
    assert made.status == 0, made.err
    ran = cli("check", "tuned", "--path", "model")
    assert ran.status == 1
    assert "--path is where the files of tuned itself are; those of what went in: --at ROLE=model" in ran.out
    assert "--path is" not in cli("check", "tuned", "--path", "out.npz").out


def test_show_tells_ids_files_signer_and_claims(cli: Cli, store: Path) -> None:
    shown = cli("show", "model").out
    for word in ("glf1:", "config.json", "signed by", "Jane", "“a friend” (claimed)"):
        assert word in shown
    assert cli("show", "model", "--json").json["files"][0]["path"] == "config.json"
    assert cli("show", "ghost").status == 3
    assert "genealog why 01M825K18EVBBBJ6E9AZF8S4QT" in cli("show", "01M825K18EVBBBJ6E9AZF8S4QT").err


def test_add_and_show_say_how_weights_were_read_and_what_a_pickle_would_run(
    cli: Cli, store: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "evil[red].pt").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(63) + b"\n"
    (folder / "x.npy").write_bytes(b"\x93NUMPY\1\0\x40\0" + head + bytes(4))
    added = cli("add", "odd", "--kind", "model").out
    for told in (added, cli("show", "odd").out):
        assert "1 tensor from npy" in told
        assert "posix.system at byte 0 in evil[red].pt [pickle-unsafe]" in told
    shown = cli("show", "odd", "--json").json
    assert (shown["format"], shown["tensors"], shown["tied"]) == ("npy", 1, {})
    assert shown["warnings"][0].startswith("pickle-unsafe: ")
    again = cli("add", "odd", "--kind", "model", "--json").json
    assert (again["format"], again["tensors"], again["warnings"]) == ("npy", 1, shown["warnings"])


def test_classes_that_a_trainer_leaves_are_told_in_a_few_words_behind_what_is_dangerous(
    cli: Cli, store: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "trained"
    folder.mkdir()
    classes = b"".join(b"ctransformers.training_args\nClass%d\n0" % number for number in range(8))
    (folder / "training_args.bin").write_bytes(classes + b"N.")
    short = "training_args.bin is a pickle: loading it imports 8 names of transformers [pickle-unsafe]"
    for told in (cli("add", "trained", "--kind", "model").out, cli("show", "trained").out):
        assert short in told
        assert "Class1" not in told
    assert "training_args.Class4 at byte" in cli("show", "trained", "--json").json["warnings"][0]
    (folder / "z.pkl").write_bytes(classes + b"cposix\nsystem\n(S'false'\ntR.")
    lines = [line for line in cli("add", "trained", "--kind", "model").out.splitlines() if "pickle-unsafe" in line]
    assert lines[0].startswith("  unsafe whoever loads it as a pickle runs posix.system at byte ")
    assert short in lines[1]
    (folder / "z.pkl").write_bytes(b"ctransformers\nA at byte 1 in x\n0cposix\nsystem\n(S'false'\ntR.")
    (line,) = [line for line in cli("add", "trained", "--kind", "model").out.splitlines() if "posix" in line]
    assert line.startswith("  unsafe "), "a name that looks like the end of the line hides nothing"


def test_verifying_files_names_what_changed(cli: Cli, store: Path, tmp_path: Path) -> None:
    assert cli("verify", "model").status == 0
    (tmp_path / "model" / "config.json").write_text("[]")
    ran = cli("verify", "model")
    assert ran.status == 1
    assert "bytes-differ" in ran.err
    assert "config.json" in ran.err


def test_a_receipt_is_a_file_that_anybody_verifies(cli: Cli, store: Path, tmp_path: Path) -> None:
    assert cli("receipt", "registry:2", "-o", "r.json").status == 0
    trust = str(store / "trust.policy")
    ran = cli("verify", "r.json", "--trust", trust)
    assert (ran.status, "proven" in ran.out) == (0, True)
    assert cli("verify", "r.json").status == 3
    data = (tmp_path / "r.json").read_bytes()
    (tmp_path / "r.json").write_bytes(data.replace(b"index 2", b"index 3"))
    ran = cli("verify", "r.json", "--trust", trust, "--json")
    assert ran.status == 1
    assert ran.json["state"] == "contradicted"
    assert ran.json["weakest"]["code"] == "inclusion-proof-mismatch"


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "not-json"), (b"{", "not-json"), (b"\x00\xff" * 99, "not-json"), (b"{}", "not-evidence")],
)
def test_junk_is_no_evidence(cli: Cli, store: Path, tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "junk").write_bytes(content)
    ran = cli("verify", "junk", "--trust", str(store / "trust.policy"))
    assert ran.status == 1
    assert code in ran.err


def test_lineage_says_where_it_ends(cli: Cli, store: Path) -> None:
    ran = cli("lineage", "model")
    assert ran.status == 0
    assert "outside-origin" in ran.out
    assert "a friend" in ran.out
    assert cli("lineage", "model", "--json").json["complete"] is True


def test_fsck_is_quiet_on_a_sound_store_and_names_a_flipped_byte(cli: Cli, store: Path) -> None:
    assert cli("fsck").status == 0
    assert cli("fsck", "--json").json == []
    segment = next((store / "logs" / "registry" / "journal").iterdir())
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    ran = cli("fsck", "--json")
    assert ran.status == 1
    assert ran.json[0]["severity"] == "error"
    assert ran.json[0]["where"]


def test_deploy_show_and_roll_back(cli: Cli, store: Path) -> None:
    url = ("--upstream", "http://127.0.0.1:1")
    assert cli("deploy", "bot", "--model", "model", *url).status == 0
    assert cli("deploy", "bot", "--model", "model", *url, "--min-assurance", "A3", "--reason", "safer").status == 0
    assert "safer" in cli("show", "bot").out
    ran = cli("rollback", "bot", "--json")
    assert ran.status == 0
    assert ran.json["took_ms"] >= 0
    assert cli("rollback", "bot").status == 3
    assert cli("show", "bot", "--json").json["history"][-1]["action"] == "rollback"


def test_signers_come_and_go(cli: Cli, store: Path) -> None:
    assert cli("signer", "add", "security", "--identity", "Security").status == 0
    assert cli("sign", "model", "--as", "security").status == 0
    keys = {key["identity"]: key for key in cli("signer", "ls", "--json").json}
    assert cli("signer", "revoke", keys["Security"]["key"][:16], "--reason", "gone").status == 0
    ran = cli("sign", "model", "--as", "security")
    assert ran.status == 1
    assert "revoked" in ran.err
    assert cli("sign", "model", "--as", "nobody").status == 3


def test_revoking_a_model_shows_in_the_list(cli: Cli, store: Path) -> None:
    assert cli("revoke", "model", "--reason", "wrong data").status == 0
    assert "revoked" in cli("ls").out
    ran = cli("deploy", "bot", "--model", "model", "--upstream", "http://127.0.0.1:1")
    assert ran.status == 1
    assert "wrong data" in ran.err


def test_why_of_a_text_that_nobody_said(cli: Cli, store: Path) -> None:
    ran = cli("why", "-", stdin=b"never said")
    assert ran.status == 3
    assert "text-not-found" in ran.err
    assert cli("why", "-", stdin=b"\xff\xfe").status == 1
    assert cli("why", "nowhere.txt").status == 3
    assert cli("why", "01J0000000000000000000000A").status == 3


@pytest.mark.parametrize("entry", ["registry:99", "registry:x", "other:0", "registry:-1", "registry:1e3"])
def test_an_entry_that_is_not_there(cli: Cli, store: Path, entry: str) -> None:
    ran = cli("receipt", entry, "-o", "r.json")
    assert ran.status in (1, 3)
    assert re.search(r"unknown-entry|bad-entry", ran.err)


def test_usage_errors_exit_2(cli: Cli) -> None:
    assert cli("add").status == 2
    assert cli("nonsense").status == 2
    assert cli("add", "x", "--kind", "nonsense").status == 2


def test_the_index_can_be_lost(cli: Cli, store: Path) -> None:
    listed = cli("ls", "--json").out
    for file in store.glob("index.sqlite*"):
        file.unlink()
    assert cli("ls", "--json").out == listed
    assert "entries again" in cli("index", "rebuild").out


def test_help_teaches(cli: Cli) -> None:
    for command in ("init", "add", "deploy", "why", "verify", "evidence", "rollback", "revoke"):
        shown = cli(command, "--help").out
        assert "Example:" in shown, command


def test_help_shows_sections_of_settings(cli: Cli) -> None:
    for words, section in ((("deploy",), "[upstreams.LABEL]"), (("replica", "serve"), "[replica]")):
        assert section in cli(*words, "--help").out


def test_a_label_is_no_path_and_breaks_no_configuration(cli: Cli, store: Path, tmp_path: Path) -> None:
    before = (store / "genealog.toml").read_bytes()
    for label in ("../../evil", str(tmp_path / "evil"), "a\nb", "", "a b", "[x]", "signer", "a" * 65):
        ran = cli("signer", "add", "--identity", "Eve", "--", label)
        assert (ran.status, "bad-label" in ran.err) == (1, True), label
    assert cli("signer", "add", "owner", "--identity", "Eve").status == 2
    assert (store / "genealog.toml").read_bytes() == before
    assert not list(tmp_path.parent.rglob("evil.pem"))


def test_identities_are_any_text(cli: Cli, store: Path) -> None:
    name = 'Zoë "😀" \x7f \\ [bold]'
    assert cli("signer", "add", "zoe", "--identity", name).status == 0
    assert name in [row["identity"] for row in cli("signer", "ls", "--json").json]
    assert cli("init", "elsewhere", "--identity", name).status == 0


def test_a_key_is_revoked_by_at_least_eight_digits(cli: Cli, store: Path) -> None:
    for cut in ("", cli("signer", "ls", "--json").json[0]["key"][:7]):
        ran = cli("signer", "revoke", cut, "--reason", "an empty variable")
        assert (ran.status, "unknown-key" in ran.err) == (3, True)
    assert not any(row["revoked"] for row in cli("signer", "ls", "--json").json)


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("add", "a" * 5000, "--kind", "files"), 2, "system-refused"),
        (("add", "model", "--kind", "files", "--name", "\udcff"), 1, "text-not-unicode"),
        (("show", "\udcff"), 1, "text-not-unicode"),
        (("why", "."), 3, "unreadable-file"),
        (("why", "a" * 5000), 3, "unreadable-file"),
        (("init", "model/config.json"), 2, "disk-error"),
        (("receipt", "registry:" + "9" * 5000, "-o", "r"), 1, "bad-entry"),
        (("receipt", "registry:٣", "-o", "r"), 1, "bad-entry"),
    ],
)
def test_what_the_system_refuses_is_an_error_of_ours(
    cli: Cli, store: Path, arguments: tuple[str, ...], status: int, code: str
) -> None:
    ran = cli(*arguments)
    assert (ran.status, code in ran.err) == (status, True)


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [
        ("trust.policy", None, "no-log-key"),
        ("trust.policy", b"\xff\xfe log x\n", "no-log-key"),
        ("trust.policy", b"log\n", "no-log-key"),
        ("genealog.toml", b'[store]\nformat=1\norigin="x"\n[identities]\nsigner=[]\n', "config-malformed"),
        ("genealog.toml", b"[store]\nformat=1\norigin=3\n[identities.owner]\nname=1\nkey=2\n", "config-malformed"),
    ],
)
def test_a_damaged_store_says_what_is_wrong(cli: Cli, store: Path, file: str, content: bytes | None, code: str) -> None:
    (store / file).unlink() if content is None else (store / file).write_bytes(content)
    ran = cli("ls")
    assert (ran.status, code in ran.err) == (2, True)


def test_lost_locations_are_only_lost_hints(cli: Cli, store: Path) -> None:
    for content in (b"[1]", b'{"a":{}}', b"\xff", b""):
        (store / "locations.json").write_bytes(content)
        assert cli("add", "model", "--kind", "model").status == 0
