"""Which models a workload would serve: found in arguments, variables, volumes and fields of KServe.

Looked for is more than any one engine understands, and what cannot be read counts as a model that nobody knows: an
engine that is started with words from elsewhere has a source that is not resolved. A container serves if its image is
on the list of serving images or its command names an engine.

Long because every engine has its own words for the same thing.

Sources: arguments of vLLM 0.11, Text Generation Inference 3, Triton 2.60, SGLang 0.5, llama.cpp and Ollama as their
documentation has them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Literal

from genealog.policy.kubernetes.arguments import Given, adapters_in, assigned_in, commands_of, drafts_in, flags_of
from genealog.policy.kubernetes.workloads import UNKNOWN, Container, Template, Workload

Role = Literal["model", "adapter", "aside"]  # aside: a tokenizer, a draft model: no base of an adapter
SERVING_IMAGES = (  # patterns of image names without registry, tag and digest
    "*vllm*", "*text-generation-inference*", "*text-embeddings-inference*", "*tritonserver*", "*llama.cpp*",
    "*llama-cpp*", "*ollama*", "*sglang*", "*huggingfaceserver*", "*kserve/*server*", "*lmdeploy*", "*tgi*",
    "nim/*", "*/nim/*", "*torchserve*", "*tensorflow/serving*", "*localai*", "*llm-d*",
)  # fmt: skip
INITIALIZER = "storage-initializer"  # of KServe: downloads SOURCE to FOLDER before the engine starts
KSERVE_FOLDER = "/mnt/models"
_ENGINES = {  # a word that starts an engine → its name
    "vllm": "vllm", "text-generation-launcher": "tgi", "text-embeddings-router": "tei", "tritonserver": "triton",
    "llama-server": "llama.cpp", "ollama": "ollama", "sglang": "sglang", "torchserve": "torchserve",
}  # fmt: skip
_IMAGES = {  # a word in the name of an image → the engine that it starts
    "vllm": "vllm", "text-generation-inference": "tgi", "text-embeddings-inference": "tei", "tritonserver": "triton",
    "llama.cpp": "llama.cpp", "llama-cpp": "llama.cpp", "ollama": "ollama", "sglang": "sglang",
}  # fmt: skip
_MODULES = {"vllm.entrypoints": "vllm", "sglang.launch_server": "sglang", "llama_cpp.server": "llama.cpp"}
_MODEL = (
    "--model", "--model-id", "--model-path", "--model-dir", "--model-repository", "--model-store", "--model-base-path",
    "--model-config-file", "--models-dir", "--model-url", "--model-draft", "--hf-repo", "--hf-repo-draft", "--mmproj",
    "--tokenizer", "--tokenizer-path", "--speculative-model", "--speculative-draft-model-path", "--hf-config-path",
)  # fmt: skip
_SHORT = ("-m", "-hf", "-hfr", "-hfd", "-hfrd", "-mu", "-md", "-mm")  # of llama.cpp
_ASIDE = (
    "--tokenizer", "--tokenizer-path", "--model-draft", "--hf-repo-draft", "--speculative-model", "--mmproj", "-md",
    "--speculative-draft-model-path", "--hf-config-path", "-hfd", "-hfrd", "-mm",
)  # fmt: skip
_ADAPTER = ("--lora-modules", "--lora-paths", "--lora-adapters", "--lora", "--lora-scaled")
_SPECULATIVE = "--speculative-config"
_LOADER = "--model-l"  # …oader-extra-config: may name a place of weights
_ELSEWHERE = ("--config",)  # arguments in a file
_REMOTE_CODE = "--trust-remote-code"
_CONTROL = "--model-control-mode"
_WATCHED = (*_MODEL, *_ADAPTER, _SPECULATIVE, *_ELSEWHERE, _REMOTE_CODE, _CONTROL, "--enable-lora", "--load-model")
_MODEL_VARIABLES = (
    "MODEL_ID", "HF_MODEL_ID", "STORAGE_URI", "MODEL_PATH", "MODEL_DIR", "NIM_MODEL_NAME", "LLAMA_ARG_MODEL",
    "LLAMA_ARG_HF_REPO", "LLAMA_ARG_MODEL_URL",
)  # fmt: skip
_ADAPTER_VARIABLE, _REMOTE_CODE_VARIABLE = "LORA_ADAPTERS", "TRUST_REMOTE_CODE"
_OPEN_VARIABLES = ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SERVER_DEV_MODE")
_HUB = "HF_ENDPOINT"  # where names are looked up, if not at Hugging Face
_OTHER_HUBS = ("VLLM_USE_MODELSCOPE", "SGLANG_USE_MODELSCOPE")
_VARIABLES = (
    *_MODEL_VARIABLES, _ADAPTER_VARIABLE, _REMOTE_CODE_VARIABLE, *_OPEN_VARIABLES, _HUB, *_OTHER_HUBS, "MODEL_NAME",
)  # fmt: skip
_NO = ("", "0", "false", "no", "off", "none")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}\Z")
_FIGURES = re.compile(r'[{ ]*("[a-z_]+" *: *([0-9.]+|true|false)[, ]*)*\}\Z')  # JSON without texts
_PREFIX = re.compile(r"--(no-|enable-|disable-|enforce-|trust-)")  # flags without a value


@dataclass(frozen=True, slots=True)
class Source:
    """Where a container has a model from. `names` are the texts that the registry may know it by, best first.

    Without names it is not known. `volume`: its bytes are on a volume that only the cluster knows.
    """

    shown: str
    names: tuple[str, ...]
    role: Role
    where: str
    volume: bool = False


@dataclass
class Found:
    """What a workload would serve, and how. The lists hold places, for people."""

    serves: bool = False
    sources: list[Source] = field(default_factory=list)
    unpinned: list[str] = field(default_factory=list)
    remote_code: list[str] = field(default_factory=list)
    open_loading: list[str] = field(default_factory=list)


def find(workload: Workload, *, images: Sequence[str] = ()) -> Found:
    """Return the models of a workload. `images` are further patterns of serving images."""
    found = Found()
    patterns = (*SERVING_IMAGES, *images)
    filled = workload.is_runtime or any(template.named for template in workload.templates)
    for template in workload.templates:
        for named in template.named:
            found.serves = True
            role: Role = "adapter" if named.role == "adapter" else "model"
            found.sources.append(_named(named.uri, role, named.where, workload))
        brought = [_brought(each, workload) for each in template.containers]
        found.sources += [source for sources in brought for source in sources]
        for container in template.containers:
            engine = _engine(container)
            if _is_initializer(container) or container.name == "modelcar":
                found.serves = True
                _pin(container, found)
            elif (
                engine
                or _is_serving(container.image, patterns)
                or (template.kserve and container.name in ("kserve-container", "main"))
            ):
                found.serves = True
                _pin(container, found)
                reader = _Reader(container, template, workload, engine, filled=filled or any(brought))
                reader.read(found)
    found.sources = list(dict.fromkeys(found.sources))
    return found


def is_pinned(image: str) -> bool:
    """Return whether an image is named by its digest."""
    return bool(_DIGEST.search(image))


def _pin(container: Container, found: Found) -> None:
    if container.image and not is_pinned(container.image):
        found.unpinned.append(f"{container.where}.image")


def _is_serving(image: str, patterns: Sequence[str]) -> bool:
    name = image.partition("@")[0].lower()
    head, slash, last = name.rpartition("/")
    name = f"{head}{slash}{last.partition(':')[0]}"
    below = name.partition("/")[2] if "." in name.partition("/")[0] or ":" in name.partition("/")[0] else name
    return any(fnmatchcase(each, pattern.lower()) for each in (name, below) for pattern in patterns)


def _engine(container: Container) -> str:
    for words in commands_of(container):
        for word in words:
            dotted = word.removeprefix("-m").replace("/", ".")
            for module, engine in _MODULES.items():
                if dotted.startswith(module) or ("/" in word and f".{module}" in dotted):
                    return engine
            if (name := PurePosixPath(word).name) in _ENGINES:
                return _ENGINES[name]
    image = container.image.lower()
    return next((name for word, name in _IMAGES.items() if word in image), "")


def _is_initializer(container: Container) -> bool:
    return container.init and container.name == INITIALIZER and "storage-initializer" in container.image


def _brought(container: Container, workload: Workload) -> list[Source]:
    """Return what KServe puts into a pod before its engine starts."""
    if _is_initializer(container):
        words = [word for word in container.args if not word.startswith("--")]
        return [_named(word, "model", f"{container.where}.args", workload) for word in words[::2]] or [
            Source("no source", (), "model", container.where)
        ]
    if container.name == "modelcar":
        return [_image(container.image, "model", f"{container.where}.image")]
    return []


def _image(reference: str, role: Role, where: str, below: str = "") -> Source:
    """Return what an image holds: a tag may mean another one tomorrow, and is no source that can be known."""
    text = f"oci://{reference.removeprefix('oci://')}"
    names = (*((f"{text}#{below}",) if below else ()), text) if is_pinned(text) else ()
    return Source(text, names, role, where)


def _named(uri: str, role: Role, where: str, workload: Workload) -> Source:
    """Return what a URI, or a name on a hub, means."""
    if UNKNOWN in uri or not uri.strip():
        return Source("not known before it runs", (), role, where)
    if uri.startswith("oci://"):
        return _image(uri, role, where)
    if uri.startswith("pvc://"):
        claim, _, rest = uri.removeprefix("pvc://").partition("/")
        text = f"pvc:{workload.namespace}/{claim}/{_clean(rest)}".rstrip("/")
        return Source(text, (text,), role, where, volume=True)
    if uri.startswith("genealog://"):
        return Source(uri, (uri.removeprefix("genealog://"),), role, where)
    if "://" in uri:
        return Source(uri, (uri,), role, where)
    return Source(uri, (uri, f"hf://{uri}", f"https://huggingface.co/{uri}", f"huggingface.co/{uri}"), role, where)


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path).lstrip("/")


class _Reader:
    """Reads one serving container."""

    def __init__(
        self, container: Container, template: Template, workload: Workload, engine: str, *, filled: bool
    ) -> None:
        self.container, self.template, self.workload, self.engine = container, template, workload, engine
        self.filled = filled
        self.where = container.where
        self.sources: list[Source] = []
        self.set = {name: [container.env[name]] for name in _VARIABLES if name in container.env}  # all that it may be

    def read(self, found: Found) -> None:
        flags: list[Given] = []
        commands = commands_of(self.container)
        for words in commands:
            known = flags_of(words)
            flags += [each for flag in known for each in _meant(flag)]
            self.sources += [each for each in self._positional(words) if each.shown]
            if any(word.startswith(UNKNOWN) for word in words):
                self._add(UNKNOWN, "model", f"{self.where}.args")
        for name, value in (each for words in commands for each in assigned_in(words, _VARIABLES)):
            self.set.setdefault(name, []).append(value)
        self._flags(flags)
        self._variables()
        if not self.sources and not self.filled:
            default = self.container.env.get("OLLAMA_MODELS", "/root/.ollama") if self.engine == "ollama" else UNKNOWN
            self._add(default, "model", self.where)
        found.sources += self.sources
        if self._remote_code(flags):
            found.remote_code.append(self.where)
        if self._open(flags):
            found.open_loading.append(self.where)

    def _flags(self, flags: Sequence[Given]) -> None:
        repositories = [flag.value for flag in flags if flag.name == "--model-repository"]
        loaded = [flag.value for flag in flags if flag.name == "--load-model"]
        parts = bool(repositories and loaded) and "*" not in loaded  # of a repository, not all of it
        for flag in flags:
            at = f"{self.where}.args {flag.shown.partition('=')[0]}"
            for text, role in self._of(flag):
                if not (parts and flag.name == "--model-repository"):
                    self._add(text, role, at)
        for repository in repositories if parts else ():
            for name in loaded:
                self._add(posixpath.join(repository, name), "model", f"{self.where}.args --load-model")

    def _of(self, flag: Given) -> Iterator[tuple[str, Role]]:
        """Yield what a flag names."""
        if flag.name in _MODEL or (flag.name in _SHORT and self.engine == "llama.cpp"):
            if not flag.value.startswith(tuple(_MODULES)):  # of `python -m MODULE`
                yield flag.value, "aside" if flag.name in _ASIDE else "model"
        elif flag.name in _ADAPTER:
            for value in flag.values or (UNKNOWN,):
                for path in adapters_in(value):
                    yield path, "adapter"
        elif flag.name.startswith(_LOADER):
            if "." in flag.name or not _FIGURES.match(flag.value):
                yield UNKNOWN, "model"
        elif flag.name in (_SPECULATIVE, "-sc"):
            for model in drafts_in(flag.values):
                yield model, "aside"
        elif flag.name == f"{_SPECULATIVE}.model":
            yield flag.value, "aside"
        elif flag.name in _ELSEWHERE:
            yield UNKNOWN, "model"

    def _positional(self, words: tuple[str, ...]) -> Iterator[Source]:
        """Yield the model that is named without a flag: by `vllm serve`, `ollama run`, or the image's own command."""
        start = None
        for index, word in enumerate(words[:-1]):
            if PurePosixPath(word).name in ("vllm", "ollama", "sglang") and words[index + 1] in (
                "serve",
                "run",
                "pull",
            ):
                start = index + 2
        if start is None and self.engine == "vllm" and not self.container.command and words[:1]:
            start = 0 if not words[0].startswith("-") else None  # after the image's own `vllm serve`
            if words[0] == "serve":
                start = 1
        if start is None:
            return
        at = f"{self.where}.args"
        named = False
        free = True  # whether a word here cannot be the value of a flag
        for word in words[start:]:
            if word.startswith("-"):
                free = "=" in word or bool(_PREFIX.match(word.replace("_", "-")))
            elif free:
                named = True
                yield self._source(word, "model", at)
            else:
                free = True
        names = {flag.name for flag in flags_of(words[start:])}
        if not named and self.engine != "ollama" and not any(name in ("--model", "--model-path") for name in names):
            yield self._source(UNKNOWN, "model", at)  # the engine's default, or a word that may be a flag's value

    def _variables(self) -> None:
        for name in _MODEL_VARIABLES:
            for value in self.set.get(name, ()):
                self._add(value, "model", f"{self.where}.env {name}")
        for each in (each for value in self.set.get(_ADAPTER_VARIABLE, ()) for each in value.split(",") if value):
            self._add(each.partition("=")[2] or each, "adapter", f"{self.where}.env {_ADAPTER_VARIABLE}")
        if not self.sources and not self.filled:
            for value in self.set.get("MODEL_NAME", ()):
                self._add(value, "model", f"{self.where}.env MODEL_NAME")

    def _remote_code(self, flags: Sequence[Given]) -> bool:
        if any(
            flag.name == _REMOTE_CODE and not (("=" in flag.shown) and flag.values[0].lower() in _NO) for flag in flags
        ):
            return True
        return self._may_be_on(_REMOTE_CODE_VARIABLE, "tgi")

    def _open(self, flags: Sequence[Given]) -> bool:
        modes = [value for flag in flags if flag.name == _CONTROL for value in flag.values[:1] or (UNKNOWN,)]
        if any(mode != "none" for mode in modes) or self.engine == "ollama":
            return True
        if any(flag.name == "--models-dir" for flag in flags):
            return True
        if self.engine == "sglang" and any(flag.name == "--enable-lora" for flag in flags):
            return True
        return any(self._may_be_on(name, "vllm") for name in _OPEN_VARIABLES)

    def _may_be_on(self, name: str, engine: str) -> bool:
        """Return whether a variable may be on. One that can come from elsewhere may be, where the engine reads it."""
        if name in self.set:
            return any(value.strip().lower() not in _NO for value in self.set[name])
        return self.container.env_from and self.engine == engine

    def _add(self, text: str, role: Role, where: str) -> None:
        source = self._source(text, role, where)
        if source.shown or source.names:
            self.sources.append(source)

    def _source(self, text: str, role: Role, where: str) -> Source:
        if UNKNOWN in text or not text.strip():
            return Source("not known before it runs", (), role, where)
        if "://" in text:
            return _named(text, role, where, self.workload)
        if not text.startswith(("/", ".")):
            named = self._hub() + text
            if UNKNOWN in named:
                return Source("not known before it runs", (), role, where)
            return _named(named, role, where, self.workload)
        path = posixpath.normpath(text)
        if not path.startswith("/"):
            return Source(text, (), role, where)  # from a folder that only the image knows
        return self._at(path, role, where)

    def _hub(self) -> str:
        """Return what stands before the name of a model on another hub than Hugging Face's."""
        if any(self._may_be_on(name, "") for name in _OTHER_HUBS):
            return "modelscope://"
        hubs = {value.rstrip("/") for value in self.set.get(_HUB, ())} - {"", "https://huggingface.co"}
        return UNKNOWN if len(hubs) > 1 else f"{hubs.pop()}/" if hubs else ""

    def _at(self, path: str, role: Role, where: str) -> Source:
        """Return what is at a path in the container: of a volume, or of its image."""
        mounts = [
            each for each in self.container.mounts
            if path == each.path.rstrip("/") or path.startswith(each.path.rstrip("/") + "/")
        ]  # fmt: skip
        if any(each.path.startswith(path.rstrip("/") + "/") for each in self.container.mounts):
            return Source(f"{path}, in which something else is mounted", (), role, where)
        below_kserve = path == KSERVE_FOLDER or path.startswith(KSERVE_FOLDER + "/")
        if not mounts:
            if below_kserve and self.filled:
                return Source("", (), role, where)  # what KServe brings, which is a source of its own
            image = self.container.image
            text = f"image:{image}:{path}"
            return Source(text, (text,) if is_pinned(image) else (), role, where)
        mount = max(mounts, key=lambda each: len(each.path.rstrip("/")))
        volume = self.template.volumes.get(mount.volume, {})
        rest = _clean(posixpath.join(mount.sub_path, posixpath.relpath(path, mount.path)))
        if UNKNOWN in rest:
            return Source("not known before it runs", (), role, where)
        return self._in_volume(volume, rest, role, where, mount.volume)

    def _in_volume(self, volume: Any, rest: str, role: Role, where: str, name: str) -> Source:
        claim, image = volume.get("persistentVolumeClaim"), volume.get("image")
        if isinstance(claim, dict) and isinstance(claim.get("claimName"), str):
            text = f"pvc:{self.workload.namespace}/{claim['claimName']}/{rest}".rstrip("/")
            return Source(text, (text,), role, where, volume=True)
        if isinstance(image, dict) and isinstance(image.get("reference"), str):
            return _image(image["reference"], role, where, rest)
        if isinstance(volume.get("emptyDir"), dict):
            filling = [each for each in self.template.containers if name in {mount.volume for mount in each.mounts}]
            others = [each for each in filling if each.where != self.where and not _is_initializer(each)]
            if self.filled and not any(each.init for each in others):
                return Source("", (), role, where)
            return Source(f"emptyDir:{name}/{rest}", (), role, where)
        kind = next((each for each in volume if each != "name"), "a volume that the object does not have")
        return Source(f"{kind}:{name}/{rest}", (), role, where, volume=True)


def _meant(flag: Given) -> list[Given]:
    """Return a flag as what it may stand for: libraries take the beginning of a name for the name."""
    if not flag.name.startswith("--") or flag.name in _WATCHED or len(flag.name) < 5:
        return [flag]
    return [Given(each, flag.values, flag.shown) for each in _WATCHED if each.startswith(flag.name)] or [flag]
