"""Gives one response for each word of its text: a decoupled model."""

import os
import sys

sys.path.insert(0, os.environ["ENGINE_SITE"])

import numpy as np
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            text = utils.get_input_tensor_by_name(request, "text_input").as_numpy().reshape(-1)[0]
            for word in text.split(b" "):
                output = utils.Tensor("text_output", np.array([word + b" "], dtype=object))
                sender.send(utils.InferenceResponse([output]))
            sender.send(flags=utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
