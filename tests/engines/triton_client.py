"""What a client of Triton does, unmodified but for its address; run in Triton's environment.

    python triton_client.py SCENARIO ADDRESS

prints JSON: for each answer its protobuf or JSON as it was understood, as hex, and what its tensors say.
"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException


def inputs(library, *, binary):
    numbers = library.InferInput("NUMBERS", [3], "FP32")
    texts = library.InferInput("TEXT", [2], "BYTES")
    more = {} if binary is None else {"binary_data": binary}
    numbers.set_data_from_numpy(np.array([0.1, -0.0, 2.5], dtype=np.float32), **more)
    texts.set_data_from_numpy(
        np.array(["hé".encode(), b"\x00\xff" if binary is not False else b"x"], dtype=object), **more
    )
    return [numbers, texts]


def negative(library):
    numbers = library.InferInput("NUMBERS", [1], "FP32")
    numbers.set_data_from_numpy(np.array([-1], dtype=np.float32))
    return [numbers]


def told(result):
    return {
        "numbers": result.as_numpy("NUMBERS_OUT").tolist(),
        "texts": [text.encode().hex() if isinstance(text, str) else text.hex() for text in result.as_numpy("TEXT_OUT")],
    }


def over_http(address, *, binary):
    library = tritonclient.http
    with library.InferenceServerClient(address) as client:
        asked = [library.InferRequestedOutput(name, binary_data=binary) for name in ("NUMBERS_OUT", "TEXT_OUT")]
        result = client.infer(
            "echo", inputs(library, binary=binary), outputs=asked, request_id="7", priority=2, headers={"X-Mine": "1"}
        )
        return told(result)


def http_error(address):
    with tritonclient.http.InferenceServerClient(address) as client:
        try:
            client.infer("echo", negative(tritonclient.http))
        except InferenceServerException as error:
            return {"status": error.status(), "message": error.message()}


def over_grpc(address):
    library = tritonclient.grpc
    with library.InferenceServerClient(address) as client:
        ready = client.is_server_ready() and client.is_model_ready("echo")
        about = client.get_model_metadata("echo")
        result = client.infer("echo", inputs(library, binary=None), request_id="7", client_timeout=60)
        message = result.get_response().SerializeToString()
        return told(result) | {"message": message.hex(), "ready": ready, "about": about.name}


def grpc_error(address):
    with tritonclient.grpc.InferenceServerClient(address) as client:
        try:
            client.infer("echo", negative(tritonclient.grpc))
        except InferenceServerException as error:
            return {"status": error.status(), "message": error.message()}


def over_stream(address):
    library = tritonclient.grpc
    got = queue.Queue()
    with library.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: got.put((result, error)))
        messages, words = [], []
        for text in (b"one two three", b"four"):
            asked = library.InferInput("text_input", [1], "BYTES")
            asked.set_data_from_numpy(np.array([text], dtype=object))
            client.async_stream_infer("count", [asked], enable_empty_final_response=True)
            last = False
            while not last:
                result, error = got.get(timeout=60)
                assert error is None, error
                message = result.get_response()
                messages.append(message.SerializeToString().hex())
                last = message.parameters["triton_final_response"].bool_param
                if message.outputs:
                    words.append(result.as_numpy("text_output")[0].decode())
        client.stop_stream()
        return {"messages": messages, "words": words}


def latency(address):
    import time

    library = tritonclient.grpc
    with library.InferenceServerClient(address) as client:
        asked = inputs(library, binary=None)
        times = []
        for _ in range(500):
            begin = time.perf_counter()
            client.infer("echo", asked)
            times.append(time.perf_counter() - begin)
        return {"median_ms": 1000 * sorted(times)[250], "p90_ms": 1000 * sorted(times)[450]}


SCENARIOS = {
    "http-json": lambda address: over_http(address, binary=False),
    "http-binary": lambda address: over_http(address, binary=True),
    "http-error": http_error,
    "grpc": over_grpc,
    "grpc-error": grpc_error,
    "grpc-stream": over_stream,
    "latency": latency,
}

if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[1]](sys.argv[2])))
