"""What a Kubernetes object would run: its pod templates, and what KServe's own fields say of models.

Read here are the fields that decide which bytes a container serves, and no others. The object comes from whoever may
create workloads: every field is looked at before it is believed, and one that has another type than the API gives it
is malformed.

Source: the API types of Kubernetes 1.33 (core/v1, apps/v1, batch/v1) and of KServe 0.15 (serving.kserve.io).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genealog.errors import MalformedError

ANNOTATION = "genealog.dev/model-id"  # IDs of the models, as somebody claims
UNKNOWN = "\x00"  # stands in texts for what is not known before the container runs
KSERVE = "serving.kserve.io"
KINDS: Mapping[str, tuple[str, ...]] = {  # API group → kinds that run models
    "": ("Pod", "PodTemplate", "ReplicationController"),
    "apps": ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"),
    "batch": ("Job", "CronJob"),
    KSERVE: ("InferenceService", "ServingRuntime", "ClusterServingRuntime", "LLMInferenceService"),
}
RUNTIMES = ("ServingRuntime", "ClusterServingRuntime")  # a template for pods: without a model of its own
_MOST = 256  # containers of one object
_PREDICTORS = (  # fields of KServe's old way to name a framework, beside `model`
    "huggingface", "lightgbm", "onnx", "paddle", "pmml", "pytorch", "sklearn", "tensorflow", "triton", "xgboost",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a volume is seen in a container."""

    volume: str
    path: str
    sub_path: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """One container. Texts hold `UNKNOWN` where a value comes from elsewhere.

    `env_from`: further variables come from elsewhere, so that one which is not in `env` may be set.
    """

    name: str
    image: str
    where: str
    command: tuple[str, ...] = ()  # empty: the image's own
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    env_from: bool = False
    mounts: tuple[Mount, ...] = ()
    init: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """A model that a field of KServe names. `uri` is empty where the field says that there is one, and not which."""

    uri: str
    where: str
    role: str = "model"


@dataclass(frozen=True, slots=True)
class Template:
    """The pods that an object makes, of one kind."""

    where: str
    containers: tuple[Container, ...]
    volumes: Mapping[str, Mapping[str, Any]]
    named: tuple[Named, ...] = ()
    kserve: bool = False  # KServe puts a model at /mnt/models before anything runs


@dataclass(frozen=True, slots=True)
class Workload:
    """A Kubernetes object that runs something. `claimed` are the IDs in its annotations."""

    kind: str
    namespace: str
    name: str
    templates: tuple[Template, ...]
    claimed: tuple[str, ...] = ()

    @property
    def deployment(self) -> str:
        """What policies know it by: `NAMESPACE/NAME`."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_runtime(self) -> bool:
        """Whether it is only a template, whose model others say."""
        return self.kind in RUNTIMES


def group_of(api_version: str) -> str:
    """Return the API group of an `apiVersion`."""
    return api_version.rpartition("/")[0]


def is_ours(group: str, kind: str) -> bool:
    """Return whether objects of this kind run models."""
    return kind in KINDS.get(group, ())


def read_workload(value: object, *, namespace: str | None = None) -> Workload:
    """Read an object as the API has it. `namespace` is where it goes, when the object does not say.

    Raises: MalformedError `bad-workload`.
    """
    root = _mapping(value, "object")
    kind, version = _text(root.get("kind"), "kind"), _text(root.get("apiVersion"), "apiVersion")
    if not is_ours(group_of(version), kind):
        raise _unread("kind", f"{version} {kind}")
    meta = _mapping(root.get("metadata"), "metadata")
    own = _text(meta.get("namespace", ""), "metadata.namespace")
    if namespace and own and own != namespace:
        raise _unread("metadata.namespace", own)
    name = _text(meta.get("name") or meta.get("generateName") or "", "metadata.name").rstrip("-")
    if not name:
        raise _unread("metadata.name", "")
    spec = _mapping(root.get("template" if kind == "PodTemplate" else "spec"), "spec")
    claimed = list(_claimed(meta, "metadata"))
    templates: list[Template] = []
    for found, more in _templates(kind, spec):
        templates.append(found)
        claimed += more
    if sum(len(each.containers) for each in templates) > _MOST:
        raise _unread("containers", f"more than {_MOST}")
    where = namespace or own or ("cluster" if kind == "ClusterServingRuntime" else "default")
    return Workload(kind, where, name, tuple(templates), tuple(dict.fromkeys(claimed)))


def _templates(kind: str, spec: Mapping[str, Any]) -> Iterator[tuple[Template, Sequence[str]]]:
    if kind == "Pod":
        yield _pod(spec, "spec"), ()
    elif kind == "CronJob":
        job = _mapping(_mapping(spec.get("jobTemplate"), "spec.jobTemplate").get("spec"), "spec.jobTemplate.spec")
        yield _templated(job.get("template"), "spec.jobTemplate.spec.template")
    elif kind == "InferenceService":
        yield from _inference_service(spec)
    elif kind == "LLMInferenceService":
        yield from _llm(spec)
    elif kind in RUNTIMES:
        yield _pod(spec, "spec", kserve=True), ()
        if spec.get("workerSpec") is not None:
            yield _pod(_mapping(spec["workerSpec"], "spec.workerSpec"), "spec.workerSpec", kserve=True), ()
    elif kind == "PodTemplate":
        yield (
            _pod(_mapping(spec.get("spec"), "template.spec"), "template.spec"),
            tuple(_claimed(_mapping(spec.get("metadata", {}), "template.metadata"), "template.metadata")),
        )
    elif kind == "ReplicationController" and spec.get("template") is None:
        raise _unread("spec.template", "nothing")
    else:
        yield _templated(spec.get("template"), "spec.template")


def _templated(value: object, where: str) -> tuple[Template, Sequence[str]]:
    template = _mapping(value, where)
    claimed = tuple(_claimed(_mapping(template.get("metadata") or {}, f"{where}.metadata"), f"{where}.metadata"))
    return _pod(_mapping(template.get("spec"), f"{where}.spec"), f"{where}.spec"), claimed


def _inference_service(spec: Mapping[str, Any]) -> Iterator[tuple[Template, Sequence[str]]]:
    for part in ("predictor", "transformer", "explainer"):
        if spec.get(part) is None:
            if part == "predictor":
                raise _unread("spec.predictor", "nothing")
            continue
        where = f"spec.{part}"
        body = _mapping(spec[part], where)
        named, more = [], []
        for framework in ("model", *_PREDICTORS):
            if body.get(framework) is not None:
                inner = f"{where}.{framework}"
                model = _mapping(body[framework], inner)
                named += list(_storage(model, inner))
                more.append(_container({"name": "kserve-container", "image": "", **model}, inner, init=False))
        if part == "predictor" and not named and not body.get("containers"):
            named.append(Named("", f"{where}.model"))
        yield _pod(body, where, named=named, more=more, kserve=True), ()
        if body.get("workerSpec") is not None:
            yield _pod(_mapping(body["workerSpec"], f"{where}.workerSpec"), f"{where}.workerSpec", kserve=True), ()


def _storage(model: Mapping[str, Any], where: str) -> Iterator[Named]:
    """Yield what a KServe predictor names: `storageUri`, `storageUris`, or a `storage` whose meaning is elsewhere."""
    if model.get("storageUri") is not None:
        yield Named(_text(model["storageUri"], f"{where}.storageUri"), f"{where}.storageUri")
    for index, each in enumerate(_list(model.get("storageUris"), f"{where}.storageUris")):
        at = f"{where}.storageUris[{index}]"
        yield Named(_text(_mapping(each, at).get("uri"), f"{at}.uri"), f"{at}.uri")
    if model.get("storage") is not None:
        yield Named("", f"{where}.storage")


def _llm(spec: Mapping[str, Any]) -> Iterator[tuple[Template, Sequence[str]]]:
    named = []
    if spec.get("model") is not None:
        model = _mapping(spec["model"], "spec.model")
        named.append(Named(_text(model.get("uri"), "spec.model.uri"), "spec.model.uri"))
        lora = _mapping(model.get("lora") or {}, "spec.model.lora")
        for index, each in enumerate(_list(lora.get("adapters"), "spec.model.lora.adapters")):
            at = f"spec.model.lora.adapters[{index}]"
            named.append(Named(_text(_mapping(each, at).get("uri"), f"{at}.uri"), f"{at}.uri", "adapter"))
    elif spec.get("baseRefs"):
        named.append(Named("", "spec.baseRefs"))  # an LLMInferenceServiceConfig says which
    else:
        raise _unread("spec.model", "nothing")
    yield Template("spec", (), {}, tuple(named), kserve=True), ()
    prefill = _mapping(spec.get("prefill") or {}, "spec.prefill")
    for where, value in (
        ("spec.template", spec.get("template")), ("spec.worker", spec.get("worker")),
        ("spec.prefill.template", prefill.get("template")), ("spec.prefill.worker", prefill.get("worker")),
    ):  # fmt: skip
        if value is not None:
            yield _pod(_mapping(value, where), where, kserve=True), ()


def _pod(
    spec: Mapping[str, Any], where: str, *, named: Sequence[Named] = (), more: Sequence[Container] = (),
    kserve: bool = False,
) -> Template:  # fmt: skip
    volumes = {}
    for index, each in enumerate(_list(spec.get("volumes"), f"{where}.volumes")):
        at = f"{where}.volumes[{index}]"
        volume = _mapping(each, at)
        volumes[_text(volume.get("name"), f"{at}.name")] = volume
    containers = [
        _container(each, f"{where}.{part}[{index}]", init=part == "initContainers")
        for part in ("initContainers", "containers", "ephemeralContainers")
        for index, each in enumerate(_list(spec.get(part), f"{where}.{part}"))
    ]
    return Template(where, (*containers, *more), volumes, tuple(named), kserve)


def _container(value: object, where: str, *, init: bool) -> Container:
    body = _mapping(value, where)
    env_from = bool(_list(body.get("envFrom"), f"{where}.envFrom"))
    expanded: dict[str, str] = {}
    for index, each in enumerate(_list(body.get("env"), f"{where}.env")):
        at = f"{where}.env[{index}]"
        variable = _mapping(each, at)
        name = _text(variable.get("name"), f"{at}.name")
        elsewhere = variable.get("valueFrom") is not None
        text = UNKNOWN if elsewhere else _known(_text(variable.get("value", ""), f"{at}.value"), at)
        # it may use those before it, as they are by then: a name may stand twice
        expanded[name] = text if elsewhere else expand(text, expanded, env_from=env_from)
    command, args = (
        tuple(
            expand(_known(_text(word, f"{where}.{part}[{index}]"), where), expanded, env_from=env_from)
            for index, word in enumerate(_list(body.get(part), f"{where}.{part}"))
        )
        for part in ("command", "args")
    )
    mounts = []
    for index, each in enumerate(_list(body.get("volumeMounts"), f"{where}.volumeMounts")):
        at = f"{where}.volumeMounts[{index}]"
        mount = _mapping(each, at)
        sub = mount.get("subPath") or (UNKNOWN if mount.get("subPathExpr") else "")
        mounts.append(
            Mount(_text(mount.get("name"), at), _text(mount.get("mountPath"), at), _text(sub, f"{at}.subPath"))
        )
    return Container(
        _text(body.get("name"), f"{where}.name"), _text(body.get("image", ""), f"{where}.image"), where, command, args,
        expanded, env_from, tuple(mounts), init,
    )  # fmt: skip


def expand(text: str, env: Mapping[str, str], *, env_from: bool) -> str:
    """Put values for `$(NAME)` as Kubernetes does: one that nothing sets stays as it is, and `$$` is a `$`."""
    parts, at = [], 0
    while (dollar := text.find("$", at)) >= 0:
        parts.append(text[at:dollar])
        following = text[dollar + 1 : dollar + 2]
        end = text.find(")", dollar)
        if following == "$":
            parts.append("$")
            at = dollar + 2
        elif following == "(" and end > 0:
            name = text[dollar + 2 : end]
            parts.append(env.get(name, UNKNOWN if env_from else text[dollar : end + 1]))
            at = end + 1
        else:
            parts.append("$")
            at = dollar + 1
    return "".join((*parts, text[at:]))


def _claimed(meta: Mapping[str, Any], where: str) -> Iterator[str]:
    annotations = _mapping(meta.get("annotations") or {}, f"{where}.annotations")
    if ANNOTATION in annotations:
        yield from _text(annotations[ANNOTATION], f"{where}.annotations").replace(",", " ").split() or ("",)


def _known(text: str, where: str) -> str:
    if UNKNOWN in text:
        raise _unread(where, "a zero byte")
    return text


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _unread(where, type(value).__name__)
    return value


def _list(value: object, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _unread(where, type(value).__name__)
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _unread(where, type(value).__name__)
    return value


def _unread(where: str, got: str) -> MalformedError:
    return MalformedError(
        "bad-workload", f"{where[:200]} is not what Kubernetes has there", got=got[:100] or "nothing",
        hint="kubectl apply --dry-run=server -f FILE says what the API server makes of it",
    )  # fmt: skip
