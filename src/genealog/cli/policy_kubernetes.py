"""`genealog policy kubernetes`: the admission webhook, and what installs it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from genealog.cli.extras import require
from genealog.cli.options import Store
from genealog.errors import MissingError, UsageError
from genealog.policy.decide import Policies
from genealog.policy.kubernetes.judging import Admission
from genealog.policy.kubernetes.manifests import NAME, Options
from genealog.policy.kubernetes.manifests import manifests as make
from genealog.policy.kubernetes.webhook import serve
from genealog.registry import Registry
from genealog.store.home import Home

app = typer.Typer(no_args_is_help=True, help="The gate of a Kubernetes cluster: an admission webhook.")
Images = Annotated[
    list[str] | None, typer.Option(help="A further pattern of images that serve models; may be given again.")
]


@app.command()
def webhook(
    port: Annotated[int, typer.Option(help="Where to listen; 0 takes a free one.", min=0, max=65_535)] = 8443,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "0.0.0.0",  # noqa: S104 - in a pod
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM of its certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM of the private key.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Take only clients with a certificate of this CA (PEM): the API server's.")
    ] = None,
    serving_image: Images = None,
    annotated_volumes: Annotated[
        bool,
        typer.Option("--annotated-volumes", help="Let the annotation say what is on a volume, unseen until it loads."),
    ] = False,
    store: Store = None,
) -> None:
    """Answer the API server: may this workload run? Decisions go into the registry log, but for dry runs.

    What cannot be decided is denied. Kubernetes asks over HTTPS only; without certificates this is for tests.

    Example: [bold]genealog policy kubernetes webhook --tls-certificate tls.crt --tls-key tls.key[/bold]
    """
    require("kubernetes")
    if (tls_certificate is None) != (tls_key is None) or (client_ca is not None and tls_certificate is None):
        raise UsageError("bad-option", "a certificate and its key stand together", expected="both, or neither")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = Home.find(store)
    Registry(home).signer()  # what cannot be put on record cannot be allowed

    def opened() -> Admission:
        policies = Policies.open(home)
        return Admission(home, policies, images=serving_image or (), annotated_volumes=annotated_volumes)

    try:
        serve(
            opened, listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}", certificate=tls_certificate,
            key=tls_key, client_ca=client_ca, announce=lambda url: typer.echo(f"webhook at {url}"),
        )  # fmt: skip
    finally:
        home.close()


@app.command()
def manifests(
    namespace: Annotated[str, typer.Option(help="Where the webhook runs.")],
    ca: Annotated[Path, typer.Option(help="PEM of the CA of its certificate: the API server trusts no other.")],
    image: Annotated[str, typer.Option(help="The image of Genealog to run, best by digest.")],
    secret: Annotated[str, typer.Option(help="The TLS secret with its certificate and key.")] = f"{NAME}-tls",
    claim: Annotated[str, typer.Option(help="The volume claim that holds the store.")] = "genealog-store",
    exclude: Annotated[
        list[str] | None, typer.Option(help="A further namespace that nothing is asked about; may be given again.")
    ] = None,
    serving_image: Images = None,
    store: Store = None,
) -> None:
    """Print what to apply: the webhook and what runs it, and a policy in CEL that the API server evaluates itself.

    The ConfigMap lists the models of the registry that are not revoked: print and apply it again when that changes.

    Example: [bold]genealog policy kubernetes manifests --namespace genealog --ca ca.crt --image IMAGE[/bold]
    """
    require("kubernetes")
    import yaml

    home = Home.find(store)
    models = [
        (each.id, each.name)
        for each in Registry(home).versions()
        if each.revoked is None and each.kind in ("model", "adapter")
    ]
    try:
        pem = ca.read_bytes()
    except OSError as error:
        raise MissingError("no-such-file", "the CA cannot be read", got=f"{ca}: {error.strerror}") from None
    made = make(
        Options(
            namespace=namespace, image=image, ca=pem, secret=secret, claim=claim, models=models,
            images=serving_image or (), excluded=exclude or (),
        )
    )  # fmt: skip
    print(yaml.safe_dump_all(made, sort_keys=False, width=110, allow_unicode=True), end="")
