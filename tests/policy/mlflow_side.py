"""The real MlflowClient, in the environment of MLflow: reads one request a line, writes one answer a line."""

from __future__ import annotations

import json
import sys
from typing import Any

from mlflow import MlflowClient  # type: ignore[attr-defined,unused-ignore]
from mlflow.exceptions import MlflowException


class Side:
    """What tests ask of MLflow. Each method is one request of people or of a pipeline."""

    def __init__(self, url: str) -> None:
        self.client: Any = MlflowClient(url, registry_uri=url)

    def upload(self, folder: str) -> dict[str, str]:
        """Log a folder as the artifact `model` of a run; return where it is, and the run."""
        run = self.client.create_run("0")
        self.client.log_artifacts(run.info.run_id, folder, "model")
        return {"source": f"{run.info.artifact_uri}/model", "run": run.info.run_id}

    def model(self, name: str) -> str:
        return str(self.client.create_registered_model(name).name)

    def version(self, name: str, source: str, run: str | None = None, tags: dict[str, str] | None = None) -> str:
        return str(self.client.create_model_version(name, source, run, tags=tags).version)

    def alias(self, name: str, alias: str, version: str) -> None:
        self.client.set_registered_model_alias(name, alias, version)

    def means(self, name: str, alias: str) -> str:
        return str(self.client.get_model_version_by_alias(name, alias).version)

    def no_alias(self, name: str, alias: str) -> None:
        self.client.delete_registered_model_alias(name, alias)

    def stage(self, name: str, version: str, stage: str) -> str:
        return str(self.client.transition_model_version_stage(name, version, stage).current_stage)

    def rename(self, name: str, to: str) -> None:
        self.client.rename_registered_model(name, to)

    def tag(self, name: str, version: str, key: str, value: str) -> None:
        self.client.set_model_version_tag(name, version, key, value)

    def search(self) -> list[str]:
        return sorted(model.name for model in self.client.search_registered_models())

    def where(self, name: str, version: str) -> str:
        return str(self.client.get_model_version_download_uri(name, version))

    def files(self, run: str) -> list[str]:
        return sorted(file.path for file in self.client.list_artifacts(run, "model"))

    def prompt(self, name: str) -> str:
        """Register a prompt and point an alias at it: both are model versions to MLflow's registry."""
        version = self.client.register_prompt(name=name, template="Answer {{question}}")
        self.client.set_prompt_alias(name, "champion", version.version)
        return str(version.version)


def main() -> None:
    side = Side(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"value": getattr(side, name)(*arguments)}
        except MlflowException as error:
            answer = {"error": type(error).__name__, "code": error.error_code, "message": error.message}
        print(json.dumps(answer), flush=True)


main()
