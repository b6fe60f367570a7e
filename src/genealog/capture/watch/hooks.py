"""Which library gets which patch, when it is imported; and what every process begins and ends with."""

from __future__ import annotations

import random
from types import ModuleType

from . import at_finish, imports, keras, libraries, lightning, randomness, tell, transformers

PATCHES = {
    "torch": libraries.torch,
    "torch.utils.data.dataloader": libraries.dataloader,
    "safetensors": libraries.safetensors,
    "safetensors.torch": libraries.safetensors_torch,
    "safetensors.numpy": libraries.safetensors_numpy,
    "numpy": libraries.numpy,
    "numpy.random": randomness.patch_numpy,
    "peft.peft_model": libraries.peft,
    "datasets.load": libraries.datasets,
    "tensorflow.python.saved_model.save": libraries.saved_model,
    "transformers.modeling_utils": transformers.modeling,
    "transformers.tokenization_utils_base": transformers.tokenization,
    "transformers.trainer": transformers.trainer,
    "transformers.integrations.integration_utils": transformers.integration,
    "keras.src.models.model": keras.model,
    "keras.src.saving.saving_api": keras.saving,
    "lightning.pytorch.trainer.trainer": lightning.trainer,
    "pytorch_lightning.trainer.trainer": lightning.trainer,
}

_installed: list[ModuleType] = []


def install() -> None:
    """Put every hook in place, once a process: now for what is imported, later for the rest."""
    if _installed:
        return
    _installed.append(random)
    randomness.patch_python()
    imports.install(PATCHES)
    at_finish(_switches)


def _switches() -> None:
    for name, value in randomness.switches().items():
        tell("switch", name=name, value=value)
    tell("libraries", names=list(libraries.is_loaded()))
