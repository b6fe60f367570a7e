"""Commands without their secrets, and the script in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.capture.command import MASK, MAX_WORD, MAX_WORDS, mask, script_of

SECRET = "s3cr3tvalue"


@pytest.mark.parametrize(
    "words",
    [
        ("--token", SECRET),
        ("--token=" + SECRET,),
        ("--hf_token", SECRET),
        ("--password", SECRET),
        ("-password=" + SECRET,),
        ("--api-key", SECRET),
        ("--api_key=" + SECRET,),
        ("WANDB_API_KEY=" + SECRET,),
        ("key=" + SECRET,),
        ("model.auth_token=" + SECRET,),
        ("https://user:" + SECRET + "@host/repo",),
        ("s3://" + SECRET + "@bucket/x",),
        ("-c", "import os; os.environ['HF_TOKEN']='" + SECRET + "'"),
        ("sh", "-c", f"export API_KEY={SECRET}; python x"),
        ("hf_" + SECRET + "0123456789",),
        ("--header=Authorization: Bearer", "sk-" + SECRET + "0123456789"),
        ("--secret-access-key", SECRET),
        ("postgresql://u:" + SECRET + "@h/db?sslmode=require",),
        ("--credentials=" + SECRET,),
        ("--passphrase", SECRET),
        ("--aws_secret", SECRET),
        ("https://host/f?token=" + SECRET,),
        ("--url=https://host/f?X-Amz-Signature=" + SECRET,),
        ("https://b.blob.example/c?sv=1&sig=" + SECRET,),
        ("postgresql://u:p@" + SECRET + "@h/db",),
        ("postgresql://u:p/" + SECRET + "@h/db",),
        ("-c", 'h={"Authorization": "Bearer ' + SECRET + '"}'),
        ("--header=Authorization: Bearer " + SECRET,),
        ('--json={"password": "two words ' + SECRET + '", "lr": 1}',),
        ("sh", "-c", "x --token " + SECRET + " --y 1"),
        ("+hub.token=" + SECRET,),
        ("curl", "-u", "user:" + SECRET),
        ("/usr/bin/curl", "-uuser:" + SECRET, "https://host"),
        ("curl", "--proxy-user", "user:" + SECRET),
        ("--user", "user:" + SECRET),
        ("--user=user:" + SECRET,),
        ("sh", "-c", f"curl -s -u user:{SECRET} https://host"),
        ("sh", "-c", f"curl --user 'user:{SECRET}' https://host"),
        ("--pass", SECRET),
        ("--db-pass=" + SECRET,),
        ("DB_PASS=" + SECRET,),
        ("openssl", "-passin", "pass:" + SECRET),
        ("--password", "-" + SECRET),
        ("--password", "--" + SECRET + "!"),
        ("sh", "-c", "x --password -" + SECRET + " --y 1"),
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_secrets_are_masked(words: tuple[str, ...]) -> None:
    masked = mask(["python", "train.py", *words, "--last"])
    assert SECRET not in " ".join(masked)
    assert MASK in " ".join(masked)
    assert (masked[:2], masked[-1]) == (("python", "train.py"), "--last")


@pytest.mark.parametrize(
    "words",
    [
        ("--max_new_tokens", "512"),
        ("--num-tokens=9"),
        ("--keyboard", "qwerty"),
        ("--tokenizer", "base"),
        ("data/keys.json",),
        ("--learning-rate=0.1",),
        ("https://host/path?x=1",),
        ("https://registry:4873/@scope/package",),
        ("sh", "-c", "x --max-new-tokens 5 --lr 1"),
        ("--pad_token", "<pad>"),
        ("user@host:dir",),
        ("--monkey=1",),
        ("docker", "run", "--user", "1000:1000", "image"),
        ("docker", "run", "-u", "me:us", "image"),
        ("curl", "-u", "me"),
        ("--bypass", "x"),
        ("python", "-u", "train.py", "--split", "train:test"),
    ],
    ids=str,
)
def test_what_is_no_secret_stays(words: tuple[str, ...]) -> None:
    assert mask(list(words)) == tuple(words)


def test_an_option_without_a_value_masks_nothing_else() -> None:
    assert mask(["--token", "--epochs", "3"]) == ("--token", "--epochs", "3")


@given(st.lists(st.text(max_size=60), max_size=8), st.integers(0, 8))
def test_every_command_can_be_masked_and_stays_short(words: list[str], at: int) -> None:
    words[at:at] = ["--token", SECRET]
    masked = mask(words)
    assert SECRET not in masked
    assert len(masked) == len(words)


def test_endless_commands_are_cut_visibly() -> None:
    masked = mask(["x" * 9000, *["y"] * 1000, "\udcff"])
    assert masked[0] == "x" * MAX_WORD + "…"
    assert masked[-1] == f"… {1002 - MAX_WORDS} more words"
    assert mask(["\udcff"]) == ("\\udcff",)


def test_the_script_is_found(tmp_path: Path) -> None:
    for name in ("train.py", "go.sh"):
        (tmp_path / name).write_text("")
    found = {
        ("python", "train.py", "--x"): "train.py",
        ("/usr/bin/python3.11", "-W", "ignore", "-u", "train.py"): "train.py",
        ("python", "-m", "train.py"): None,
        ("python", "-c", "train.py"): None,
        ("python", "absent.py"): None,
        ("torchrun", "--nproc", "2", "train.py", "go.sh"): "train.py",
        ("bash", "go.sh"): "go.sh",
        ("./go.sh",): "go.sh",
        ("ls",): None,
        ("python",): None,
        (): None,
    }
    for words, name in found.items():
        script = script_of(words, tmp_path)
        assert (script.name if script else None) == name, words


@pytest.mark.parametrize("word", ["a-" * 60_000 + " ", "x" * 120_000 + " b", "--token " * 15_000, "x://a:" * 20_000])
def test_a_word_without_end_takes_no_time_without_end(word: str) -> None:
    (masked,) = mask([word])
    assert len(masked) == MAX_WORD + 1
