"""Gives its texts back, and its numbers doubled. Triton runs this, in a Python of its own."""

import os
import sys

sys.path.insert(0, os.environ["ENGINE_SITE"])  # Triton's Python looks at no PYTHONPATH

import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        numbers = utils.get_input_tensor_by_name(request, "NUMBERS")
        text = utils.get_input_tensor_by_name(request, "TEXT")
        if numbers is not None and (numbers.as_numpy() < 0).any():
            return utils.InferenceResponse(error=utils.TritonError("no negative numbers"))
        outputs = []
        if numbers is not None:
            outputs.append(utils.Tensor("NUMBERS_OUT", numbers.as_numpy() * 2))
        if text is not None:
            outputs.append(utils.Tensor("TEXT_OUT", text.as_numpy()))
        return utils.InferenceResponse(outputs)
