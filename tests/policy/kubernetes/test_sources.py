"""Where the models of a workload come from: what each engine is started with, and what nobody can know before."""

from __future__ import annotations

from typing import Any

import pytest

import admission_samples as samples
from genealog.errors import MalformedError
from genealog.policy.kubernetes.sources import Found, find, is_pinned
from genealog.policy.kubernetes.workloads import read_workload

UNKNOWN = "not known before it runs"
TGI = f"ghcr.io/huggingface/text-generation-inference@{samples.DIGEST}"
TRITON = f"nvcr.io/nvidia/tritonserver@{samples.DIGEST}"
LLAMA = f"ghcr.io/ggml-org/llama.cpp@{samples.DIGEST}"


def found(**container: Any) -> Found:
    more = {key: container.pop(key) for key in ("volumes", "initContainers") if key in container}
    return find(read_workload(samples.pod() | {"spec": samples.pod_spec(samples.container(**container), **more)}))


def shown(found: Found) -> set[str]:
    return {source.shown for source in found.sources}


FORMS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "flag and value": ({"args": ["--model", "a/b"]}, {"a/b"}),
    "flag=value": ({"args": ["--model=a/b"]}, {"a/b"}),
    "a shorter flag": ({"args": ["--mode", "a/b"]}, {"a/b"}),
    "underscores": ({"args": ["--speculative_model", "a/b", "--model", "c"]}, {"a/b", "c"}),
    "twice": ({"args": ["--model", "good", "--model", "evil"]}, {"good", "evil"}),
    "serve": ({"command": ["vllm", "serve", "a/b", "--port", "8000"]}, {"a/b"}),
    "serve after flags": ({"command": ["vllm", "serve", "--enforce-eager", "a/b"]}, {"a/b"}),
    "serve, unclear": ({"command": ["vllm", "serve", "--port", "8000"]}, {UNKNOWN}),
    "the image's own command": ({"args": ["a/b", "--port", "8000"]}, {"a/b"}),
    "serve and a flag": ({"command": ["vllm", "serve", "good", "--model", "evil"]}, {"good", "evil"}),
    "module": ({"command": ["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "a/b"]}, {"a/b"}),
    "nothing": ({"args": ["--port", "8000"]}, {UNKNOWN}),
    "tokenizer": ({"args": ["--model", "a", "--tokenizer", "t/t"]}, {"a", "t/t"}),
    "adapters": ({"args": ["--model", "a", "--lora-modules", "x=l/one", "y=l/two"]}, {"a", "l/one", "l/two"}),
    "adapters as JSON": ({"args": ["--model", "a", "--lora-modules", '{"name":"x","path":"l/x"}']}, {"a", "l/x"}),
    "a draft": ({"args": ["--model", "a", "--speculative-config", '{"model":"d/d"}']}, {"a", "d/d"}),
    "a draft, dotted": ({"args": ["--model", "a", "--speculative-config.model", "d/d"]}, {"a", "d/d"}),
    "n-grams": ({"args": ["--model", "a", "--speculative-config", '{"method":"ngram"}']}, {"a"}),
    "arguments in a file": ({"args": ["--model", "a", "--config", "/etc/v.yaml"]}, {"a", UNKNOWN}),
    "a shell": ({"command": ["sh", "-c", "exec vllm serve a/b --port 8000"]}, {"a/b"}),
    "a login shell": ({"command": ["/bin/bash", "-lc"], "args": ["cd / && vllm serve 'a/b' 2>&1 | tee l"]}, {"a/b"}),
    "a shell's quotes": ({"command": ["sh", "-c", 'vllm serve --mo"del"=a/b']}, {"a/b"}),
    "a shell's lines": ({"command": ["sh", "-c", "vllm serve good\\\n --model evil"]}, {"good", "evil"}),
    "words after a redirection": ({"command": ["sh", "-c", "vllm serve good > log --model evil"]}, {"good", "evil"}),
    "a shell's substitution": ({"command": ["sh", "-c", "vllm serve $(cat /m)"]}, {UNKNOWN}),
    "backticks": ({"command": ["sh", "-c", "vllm serve `cat /m`"]}, {UNKNOWN}),
    "braces": ({"command": ["sh", "-c", "vllm serve good --{model,x}=evil"]}, {"good", UNKNOWN}),
    "eval": ({"command": ["sh", "-c", "vllm serve good; eval $X"]}, {"good", UNKNOWN}),
    "a shell that does not end": ({"command": ["sh", "-c", "vllm serve 'a"]}, {UNKNOWN}),
    "a script in a file": ({"command": ["sh", "/start.sh"]}, {UNKNOWN}),
    "options of a shell": ({"command": ["bash", "-eo", "pipefail", "-c", "vllm serve evil", "--model=a"]}, {"evil"}),
    "options behind -c": ({"command": ["sh", "-c", "-e", "--", "vllm serve evil", "--model=a"]}, {"evil"}),
    "a shell in a shell": ({"command": ["sh", "-c", "sh -c 'vllm serve evil' --model a"]}, {"evil"}),
    "a file and a decoy": ({"command": ["bash", "/start.sh", "--model", "a"]}, {"a", UNKNOWN}),
    "code and a decoy": ({"command": ["python3", "-c", "LLM('evil')", "--model", "a"]}, {"a", UNKNOWN}),
    "env -S and a decoy": ({"command": ["env", "-S", "vllm serve evil", "--model", "a"]}, {"a", UNKNOWN}),
    "code of an engine by path": ({"command": ["python3", "/lib/vllm/entrypoints/api.py", "--model", "a"]}, {"a"}),
    "a draft, short": ({"args": ["--model", "a", "-sc", '{"model":"d/d"}']}, {"a", "d/d"}),
    "weights from elsewhere": (
        {"args": ["--model", "a", "--model-loader-extra-config", '{"tensorizer_uri":"s3://evil"}']}, {"a", UNKNOWN},
    ),
    "a loader's figures": (
        {"args": ["--model", "a", "--model-loader-extra-config", '{"num_threads": 8, "lazy": true}']}, {"a"},
    ),
    "a variable that stands twice": (
        {
            "args": ["--model", "$(M)"],
            "env": [{"name": "N", "value": "evil"}, {"name": "M", "value": "$(N)"}, {"name": "N", "value": "a"}],
        },
        {"evil"},
    ),
    "another hub": (
        {"args": ["--model", "a/b"], "env": [{"name": "HF_ENDPOINT", "value": "https://evil/"}]}, {"https://evil/a/b"},
    ),
    "the usual hub": (
        {"args": ["--model", "a/b"], "env": [{"name": "HF_ENDPOINT", "value": "https://huggingface.co"}]}, {"a/b"},
    ),
    "another kind of hub": (
        {"args": ["--model", "a/b"], "env": [{"name": "VLLM_USE_MODELSCOPE", "value": "1"}]}, {"modelscope://a/b"},
    ),
    "a script that sets a variable": (
        {
            "image": TGI, "env": [{"name": "MODEL_ID", "value": "a"}],
            "command": ["sh", "-c", "MODEL_ID=evil text-generation-launcher"],
        },
        {"a", "evil"},
    ),
    "a script that reads a variable": (
        {
            "image": TGI, "env": [{"name": "MODEL_ID", "value": "a"}],
            "command": ["sh", "-c", "printf -v MODEL_ID evil; text-generation-launcher"],
        },
        {"a", UNKNOWN},
    ),
    "env that sets a variable": (
        {
            "image": TGI, "env": [{"name": "MODEL_ID", "value": "a"}],
            "command": ["env", "MODEL_ID=evil", "text-generation-launcher"],
        },
        {"a", "evil"},
    ),
    "something mounted inside": (
        {
            "args": ["--model", "/m"],
            "volumes": [
                {"name": "v", "persistentVolumeClaim": {"claimName": "good"}}, {"name": "w", "emptyDir": {}},
            ],
            "volumeMounts": [
                {"name": "v", "mountPath": "/m"}, {"name": "w", "mountPath": "/m/model.safetensors", "subPath": "x"},
            ],
        },
        {"/m, in which something else is mounted"},
    ),
    "$(VAR)": ({"args": ["--model", "$(M)"], "env": [{"name": "M", "value": "a/b"}]}, {"a/b"}),
    "$VAR of a shell": (
        {"command": ["sh", "-c", "vllm serve $M"], "env": [{"name": "M", "value": "a/b"}]}, {"a/b"},
    ),
    "several words in $VAR": (
        {"command": ["sh", "-c", "vllm serve good $M"], "env": [{"name": "M", "value": "--model evil"}]},
        {"good", "evil"},
    ),
    "a variable that the script sets": (
        {"command": ["sh", "-c", "M=evil; vllm serve $M"], "env": [{"name": "M", "value": "good"}]}, {UNKNOWN},
    ),
    "valueFrom": (
        {"args": ["--model=$(M)"], "env": [{"name": "M", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {UNKNOWN},
    ),
    "envFrom": ({"args": ["--model=$(M)"], "envFrom": [{"configMapRef": {"name": "c"}}]}, {UNKNOWN}),
    "TGI": ({"image": TGI, "args": ["--model-id", "a/b"]}, {"a/b"}),
    "TGI by variable": ({"image": TGI, "args": [], "env": [{"name": "MODEL_ID", "value": "a/b"}]}, {"a/b"}),
    "a name of a model alone": ({"image": TGI, "args": [], "env": [{"name": "MODEL_NAME", "value": "a"}]}, {"a"}),
    "Triton": ({"image": TRITON, "args": ["tritonserver", "--model-repository=s3://m"]}, {"s3://m"}),
    "Triton, one model": (
        {"image": TRITON, "args": ["tritonserver", "--model-repository=s3://m", "--load-model=x"]}, {"s3://m/x"},
    ),
    "llama.cpp": ({"image": LLAMA, "args": ["-m", "/m.gguf"]}, {f"image:{LLAMA}:/m.gguf"}),
    "llama.cpp from a hub": ({"image": LLAMA, "args": ["--hf-repo", "a/b"]}, {"a/b"}),
    "Ollama": ({"image": "ollama/ollama", "args": ["serve"]}, {"image:ollama/ollama:/root/.ollama"}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_form_names_its_models(form: str) -> None:
    container, expected = FORMS[form]
    said = found(**{"args": []} | container)
    assert said.serves
    assert shown(said) == expected
    assert all(source.names == () for source in said.sources if source.shown == UNKNOWN)


VOLUMES: dict[str, tuple[dict[str, Any], str, bool]] = {
    "a claim": ({"persistentVolumeClaim": {"claimName": "c"}}, "pvc:prod/c/llama", True),
    "an image": (
        {"image": {"reference": f"r.io/m@{samples.DIGEST}"}}, f"oci://r.io/m@{samples.DIGEST}", True,
    ),
    "an image by tag": ({"image": {"reference": "r.io/m:v1"}}, "oci://r.io/m:v1", False),
    "CSI": ({"csi": {"driver": "d"}}, "csi:v/llama", False),
    "the node": ({"hostPath": {"path": "/x"}}, "hostPath:v/llama", False),
    "nothing that fills it": ({"emptyDir": {}}, "emptyDir:v/llama", False),
}  # fmt: skip


@pytest.mark.parametrize("volume", VOLUMES)
def test_a_path_is_what_is_mounted_there(volume: str) -> None:
    body, expected, known = VOLUMES[volume]
    said = found(
        args=["--model=/models/../models/llama"], volumeMounts=[{"name": "v", "mountPath": "/models/"}],
        volumes=[{"name": "v", **body}],
    )  # fmt: skip
    (source,) = said.sources
    assert (source.shown, bool(source.names)) == (expected, known)


FLAGS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "remote code": ({"args": ["--model", "a", "--trust-remote-code"]}, (1, 0)),
    "remote code, shorter": ({"args": ["--model", "a", "--trust"]}, (1, 0)),
    "remote code, underscores": ({"args": ["--model", "a", "--trust_remote_code"]}, (1, 0)),
    "remote code, in quotes": ({"command": ["sh", "-c", "vllm serve a --trust'-remote'-code"]}, (1, 0)),
    "remote code, off": ({"args": ["--model", "a", "--trust-remote-code=false"]}, (0, 0)),
    "remote code by variable": (
        {"image": TGI, "args": ["--model-id", "a"], "env": [{"name": "TRUST_REMOTE_CODE", "value": "true"}]}, (1, 0),
    ),
    "adapters at run time": (
        {"args": ["--model", "a"], "env": [{"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "1"}]}, (0, 1),
    ),
    "adapters at run time, maybe": ({"args": ["--model", "a"], "envFrom": [{"secretRef": {"name": "s"}}]}, (0, 1)),
    "adapters at run time, off": (
        {
            "args": ["--model", "a"], "envFrom": [{"secretRef": {"name": "s"}}],
            "env": [
                {"name": name, "value": "0"} for name in ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SERVER_DEV_MODE")
            ],
        },
        (0, 0),
    ),
    "Triton, explicit": (
        {"image": TRITON, "args": ["--model-repository=a", "--model-control-mode=explicit"]}, (0, 1),
    ),
    "Triton, none": ({"image": TRITON, "args": ["--model-repository=a", "--model-control-mode=none"]}, (0, 0)),
    "Ollama": ({"image": "ollama/ollama:0.12", "args": ["serve"]}, (0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("flag", FLAGS)
def test_what_an_engine_may_do_beside(flag: str) -> None:
    container, expected = FLAGS[flag]
    said = found(**{"args": []} | container)
    assert (len(said.remote_code), len(said.open_loading)) == expected


def test_other_containers_have_no_models() -> None:
    said = found(image="nginx:1.29", args=["--model", "a"], env=[{"name": "MODEL_NAME", "value": "gpt"}])
    assert not said.serves
    assert said == Found()


@pytest.mark.parametrize(
    ("image", "serves"),
    [("reg.local:5000/mirror/vllm/vllm-openai:v1", True), ("VLLM/vllm-openai", True), ("nvcr.io/nim/meta/x:1", True),
     ("kserve/huggingfaceserver:v1", True), ("postgres:17", False), ("busybox", False)],
)  # fmt: skip
def test_serving_images_by_any_registry_and_tag(image: str, serves: bool) -> None:
    assert found(image=image, args=[]).serves is serves


def test_further_serving_images() -> None:
    workload = read_workload(samples.pod() | {"spec": samples.pod_spec(samples.container(image="own/server:1"))})
    assert not find(workload).serves
    assert find(workload, images=("own/*",)).unpinned == ["spec.containers[0].image"]


def test_what_kserve_downloads_is_the_model_of_its_pod() -> None:
    initializer = {
        "name": "storage-initializer", "image": f"kserve/storage-initializer@{samples.DIGEST}",
        "args": ["s3://bucket/m", "/mnt/models"],
        "volumeMounts": [{"name": "kserve-provision-location", "mountPath": "/mnt/models"}],
    }  # fmt: skip
    mounts = [{"name": "kserve-provision-location", "mountPath": "/mnt/models", "readOnly": True}]
    volumes = [{"name": "kserve-provision-location", "emptyDir": {}}]
    said = found(args=["--model=/mnt/models"], volumeMounts=mounts, volumes=volumes, initContainers=[initializer])
    assert shown(said) == {"s3://bucket/m"}
    stranger = {**initializer, "name": "other", "image": "busybox", "args": []}
    said = found(
        args=["--model=/mnt/models"], volumeMounts=mounts, volumes=volumes, initContainers=[initializer, stranger]
    )
    assert "emptyDir:kserve-provision-location" in {source.shown.rstrip("/") for source in said.sources}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"])
def test_templates_are_found_in_every_kind(kind: str) -> None:
    version = "batch/v1" if kind.endswith("Job") else "apps/v1"
    workload = read_workload(samples.templated(kind, samples.pod_spec(samples.container("--model=a/b")), version))
    assert shown(find(workload)) == {"a/b"}
    assert workload.deployment == "prod/chat"


@pytest.mark.parametrize("part", ["initContainers", "ephemeralContainers"])
def test_containers_of_every_sort_are_read(part: str) -> None:
    spec = samples.pod_spec(samples.container("--model=good"), **{part: [samples.container("--model=evil", name="x")]})
    assert shown(find(read_workload(samples.pod() | {"spec": spec}))) == {"good", "evil"}


def test_kserve_names_models_in_fields() -> None:
    assert shown(find(read_workload(samples.inference_service("hf://a/b")))) == {"hf://a/b"}
    several = samples.inference_service("s3://a", storageUris=[{"uri": "s3://b"}], storage={"key": "k"})
    assert shown(find(read_workload(several))) == {"s3://a", "s3://b", UNKNOWN}
    claimed = find(read_workload(samples.inference_service("pvc://claim/llama")))
    assert shown(claimed) == {"pvc:prod/claim/llama"}
    llm = {
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": "LLMInferenceService", "metadata": samples.meta(),
        "spec": {"model": {"uri": "hf://a/b", "lora": {"adapters": [{"name": "x", "uri": "hf://l/x"}]}},
                 "template": {"containers": [{"name": "main", "image": samples.VLLM, "args": ["/mnt/models"]}]}},
    }  # fmt: skip
    assert [(source.shown, source.role) for source in find(read_workload(llm)).sources] == [
        ("hf://a/b", "model"), ("hf://l/x", "adapter"),
    ]  # fmt: skip
    runtime = {
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime", "metadata": samples.meta(),
        "spec": {"containers": [{"name": "kserve-container", "image": "v:1", "args": ["--model=/mnt/models"]}]},
    }  # fmt: skip
    said = find(read_workload(runtime))
    assert (said.sources, said.unpinned) == ([], ["spec.containers[0].image"])


@pytest.mark.parametrize(
    "broken",
    [{"spec": None}, {"spec": {"containers": {}}}, {"spec": {"containers": [{"name": "x", "args": "--model=a"}]}},
     {"spec": {"containers": [{"name": "x", "env": [{"name": "A", "value": 1}]}]}}, {"metadata": {}},
     {"metadata": {"name": "x", "annotations": {"genealog.dev/model-id": 1}}}, {"kind": "Secret"}],
    ids=["no spec", "containers", "args", "env", "no name", "annotation", "kind"],
)  # fmt: skip
def test_what_kubernetes_would_not_send_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(MalformedError) as caught:
        read_workload(samples.pod() | broken)
    assert caught.value.code == "bad-workload"


def test_pinned() -> None:
    assert is_pinned(samples.VLLM)
    assert not is_pinned("vllm/vllm-openai@sha256:ab")
    assert not is_pinned(samples.VLLM + "0")
