"""SoftHSM in tests: a token in software behind the same interface as one in hardware.

`make test` finds or brings it (`scripts/make_softhsm.py`); where that cannot be, `absent` says why, and the tests are
left out loudly (`tests/store/signers/conftest.py`). A process loads the library once, with one folder of tokens.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from make_softhsm import FOLDER, find

PIN, SO_PIN = "4711-tests", "0815-tests"


def absent() -> str | None:
    """Why there is no SoftHSM, None if there is."""
    if find() is not None:
        return None
    missing = FOLDER / "missing"
    return missing.read_text().strip() if missing.exists() else "`scripts/make_softhsm.py` has not been run"


@dataclass(frozen=True)
class Tokens:
    """A folder of tokens and the library that reads it."""

    library: Path
    tool: Path
    folder: Path

    def make(self, label: str, keys: dict[str, str], *, pin: str = PIN) -> str:
        """Make a token with keys (label → curve); return how its URIs begin."""
        self.run("--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", SO_PIN)
        import pkcs11
        from pkcs11.util.ec import encode_named_curve_parameters

        pkcs11.lib(str(self.library)).reinitialize()  # or it does not see the new token
        token = next(
            slot.get_token()
            for slot in pkcs11.lib(str(self.library)).get_slots(token_present=True)
            if slot.get_token().label == label
        )
        with token.open(rw=True, user_pin=pin) as session:
            for name, curve in keys.items():
                if curve == "rsa":
                    session.generate_keypair(pkcs11.KeyType.RSA, 2048, label=name, store=True, id=name.encode())
                    continue
                parameters = session.create_domain_parameters(
                    pkcs11.KeyType.EC,
                    {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)},
                    local=True,
                )
                parameters.generate_keypair(
                    store=True, label=name, id=name.encode(), mechanism=pkcs11.Mechanism.EC_KEY_PAIR_GEN
                )
        return f"pkcs11:token={label}"

    def uri(self, token: str, key: str) -> str:
        """Return the URI of a key."""
        return f"pkcs11:token={token};object={key}?module-path={self.library}"

    def run(self, *arguments: str) -> None:
        """Run `softhsm2-util`."""
        command = [self.tool, "--module", self.library, *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=60, env=os.environ)


def prepare(folder: Path) -> Tokens:
    """Make an empty folder of tokens and let this process use it."""
    found = find()
    assert found is not None
    (folder / "tokens").mkdir(parents=True)
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    return Tokens(*found, folder)
