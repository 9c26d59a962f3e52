"""What a Triton user would write, against one server: HTTP, gRPC, both asyncio clients, streaming, a Unix socket.

Arguments: HTTP address, gRPC address, path of a Unix socket or "-", place that answers, CA file or "-", token or "-".
The server has the models `types` (an identity of every datatype) and `digits`.
"""

import asyncio
import queue
import sys

import geventhttpclient.connectionpool
import grpc
import ml_dtypes
import numpy as np
import tritonclient.grpc as tgrpc
import tritonclient.grpc.aio as agrpc
import tritonclient.http as thttp
import tritonclient.http.aio as ahttp
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

http_address, grpc_address, socket_path, place, ca, token = sys.argv[1:]
secure = ca != "-"
headers = {"authorization": f"Bearer {token}"} if token != "-" else {}



def more():
    """Returns a dictionary of its own for each call: tritonclient adds to the headers that it is given."""
    return {"headers": dict(headers)}


# Every datatype with values at its ends.
VALUES = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15), 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP16": np.array([-65504.0, 6e-5], np.float16),
    "BF16": np.array([-3.0e38, 1.5], ml_dtypes.bfloat16),
    "FP32": np.array([np.nan, -1.5], np.float32),
    "FP64": np.array([np.inf, 1e300], np.float64),
    "BYTES": np.array([b"plain", "f\u00fcnf \u2603".encode()], np.object_),
}


def inputs(module, names=None):
    made = []
    for name, values in VALUES.items():
        if names is None or name in names:
            tensor = module.InferInput(name.lower(), list(values.shape), name)
            made.append(tensor.set_data_from_numpy(values))
    return made


def check(result, names=None):
    for name, values in VALUES.items():
        if names is not None and name not in names:
            continue
        given = result.as_numpy(f"{name.lower()}_out")
        assert given is not None and given.shape == values.shape, (name, given)
        assert given.dtype == values.dtype, (name, given.dtype)
        assert values.tobytes() == given.tobytes() or given.tolist() == values.tolist(), (name, given)


def refused(call, *words):
    try:
        call()
    except InferenceServerException as error:
        assert all(word in str(error) for word in words), error
        return error
    raise SystemExit(f"not refused: {words}")


def metadata_and_models(client, is_http):
    assert client.is_server_live(**more()) and client.is_server_ready(**more()) and client.is_model_ready("types", **more())
    server = client.get_server_metadata(**more())
    extensions = server["extensions"] if is_http else list(server.extensions)
    for extension in ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"):
        assert extension in extensions, extensions
    if is_http:
        metadata = client.get_model_metadata("types", **more())
        kinds = {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
        config = client.get_model_config("types", **more())
        data_types = {tensor["name"]: tensor["data_type"] for tensor in config["input"]}
        index = [(model["name"], model["state"]) for model in client.get_model_repository_index(**more())]
        statistics = client.get_inference_statistics("types", **more())["model_stats"][0]
        count = statistics["inference_stats"]["success"]["count"]
    else:
        metadata = client.get_model_metadata("types", **more())
        kinds = {tensor.name: tensor.datatype for tensor in metadata.inputs}
        config = client.get_model_config("types", as_json=True, **more())["config"]
        data_types = {tensor["name"]: tensor["data_type"] for tensor in config["input"]}
        index = [(model.name, model.state) for model in client.get_model_repository_index(**more()).models]
        count = client.get_inference_statistics("types", **more()).model_stats[0].inference_stats.success.count
    assert kinds == {name.lower(): name for name in VALUES}, kinds
    assert data_types["fp16"] == "TYPE_FP16" and data_types["bytes"] == "TYPE_STRING", data_types
    assert ("types", "READY") in index and ("digits", "READY") in index, index
    assert count > 0, count
    client.load_model("types", **more())
    refused(lambda: client.load_model("types", config="{}", **more()), "not supported")
    refused(lambda: client.get_model_metadata("nobody", **more()), "nobody")


def shared_memory(client, is_http):
    status = client.get_system_shared_memory_status(**more())
    assert (status == []) if is_http else (len(status.regions) == 0), status
    client.unregister_system_shared_memory(**more())
    client.unregister_cuda_shared_memory(**more())
    refused(lambda: client.register_system_shared_memory("r", "/dev/shm/r", 64, **more()), "shared memory")
    refused(lambda: client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 64, **more()), "shared memory")


def classes(client, module):
    image = module.InferInput("image", [2, 1, 28, 28], "FP32")
    image.set_data_from_numpy(np.zeros((2, 1, 28, 28), np.float32))
    ask = lambda count: client.infer(
        "digits", [image], outputs=[module.InferRequestedOutput("logits", class_count=count)], **more()
    )
    top, tensor = ask(3).as_numpy("logits"), ask(0).as_numpy("logits")
    assert top.shape == (2, 3) and tensor.shape == (2, 10), (top, tensor.shape)
    value, index, label = top[0][0].decode().split(":")
    assert int(index) == tensor[0].argmax() and label == index, top
    assert abs(float(value) - tensor[0].max()) < 1e-3, (value, tensor)


def http(client):
    one = inputs(thttp)
    result = client.infer("types", one, request_id="r-1", **more())
    check(result)
    assert result.get_response()["parameters"]["place"] == place, result.get_response()
    # Elements as JSON, both ways, where JSON has a form of them.
    names = [name for name in VALUES if name not in ("FP16", "BF16", "FP32", "FP64", "BYTES")]
    plain = []
    for name in names:
        tensor = thttp.InferInput(name.lower(), list(VALUES[name].shape), name)
        plain.append(tensor.set_data_from_numpy(VALUES[name], binary_data=False))
    rest = inputs(thttp, [name for name in VALUES if name not in names])
    outputs = [thttp.InferRequestedOutput(f"{name.lower()}_out", binary_data=False) for name in names]
    check(client.infer("types", plain + rest, outputs=outputs, **more()), names)
    for request in ("gzip", "deflate", None):
        for response in ("gzip", "deflate", None):
            result = client.infer(
                "types", one, request_compression_algorithm=request, response_compression_algorithm=response, **more()
            )
            check(result)
    big = thttp.InferInput("image", [100, 1, 28, 28], "FP32").set_data_from_numpy(np.zeros((100, 1, 28, 28), np.float32))
    for algorithm in ("gzip", "deflate"):
        result = client.infer(
            "digits", [big], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm, **more()
        )
        assert result.as_numpy("logits").shape == (100, 10)
    check(client.async_infer("types", one, **more()).get_result())
    metadata_and_models(client, True)
    shared_memory(client, True)
    classes(client, thttp)
    error = refused(lambda: client.infer("types", one[:1], **more()), "is missing")
    assert error.status() == "400", error


def stream(client, one):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)), **more())
    for number in range(3):
        client.async_stream_infer("types", one, request_id=f"s-{number}")
    client.async_stream_infer("nobody", one, request_id="wrong")
    client.async_stream_infer("types", one, request_id="last", enable_empty_final_response=True)
    got = [answers.get(timeout=120) for _ in range(5)]
    client.stop_stream()
    assert [error is None for _result, error in got] == [True, True, True, False, True], got
    assert "nobody" in str(got[3][1])
    for result, error in got:
        if error is None:
            check(result)
    ids = [result.get_response().id for result, error in got if error is None]
    assert ids == ["s-0", "s-1", "s-2", "last"], ids
    assert got[4][0].get_response().parameters["triton_final_response"].bool_param


def rpc(client):
    one = inputs(tgrpc)
    result = client.infer("types", one, request_id="r-1", **more())
    check(result)
    assert result.get_response().parameters["place"].string_param == place, result.get_response()
    for algorithm in ("gzip", "deflate"):
        check(client.infer("types", one, compression_algorithm=algorithm, **more()))
    answers = queue.Queue()
    client.async_infer("types", one, callback=lambda result, error: answers.put((result, error)), **more())
    result, error = answers.get(timeout=120)
    assert error is None, error
    check(result)
    stream(client, one)
    metadata_and_models(client, False)
    shared_memory(client, False)
    classes(client, tgrpc)
    error = refused(lambda: client.infer("types", one[:1], **more()), "is missing")
    assert "INVALID_ARGUMENT" in error.status(), error
    error = refused(lambda: client.infer("nobody", one, **more()), "nobody")
    assert "NOT_FOUND" in error.status(), error
    error = refused(lambda: client.infer("types", one, sequence_id=7, sequence_start=True, **more()), "sequence_id")
    typed_contents()


def channel():
    if not secure:
        return grpc.insecure_channel(grpc_address)
    with open(ca, "rb") as file:
        return grpc.secure_channel(grpc_address, grpc.ssl_channel_credentials(file.read()))


def typed_contents():
    """Sends the typed contents that tritonclient itself never sends."""
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    fields = {
        "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
        "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
        "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
    }
    image = np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(1, 1, 28, 28)
    request = service_pb2.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="image", datatype="FP32", shape=list(image.shape))
    tensor.contents.fp32_contents.extend(image.flatten().tolist())
    metadata = list(headers.items())
    with channel() as opened:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(opened)
        typed = np.frombuffer(stub.ModelInfer(request, metadata=metadata).raw_output_contents[0], np.float32)
        raw = service_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[image.tobytes()])
        raw.inputs.add(name="image", datatype="FP32", shape=list(image.shape))
        assert np.array_equal(typed, np.frombuffer(stub.ModelInfer(raw, metadata=metadata).raw_output_contents[0], np.float32))
        # FP16 and BF16 have no typed field: with them, the whole request is raw. Every other one is refused half and half.
        request = service_pb2.ModelInferRequest(model_name="types")
        for name, field in fields.items():
            tensor = request.inputs.add(name=name.lower(), datatype=name, shape=[2])
            getattr(tensor.contents, field).extend(VALUES[name].tolist())
        for name in ("FP16", "BF16"):
            request.inputs.add(name=name.lower(), datatype=name, shape=[2])
        try:
            stub.ModelInfer(request, metadata=metadata)
            raise SystemExit("FP16 without contents was taken")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "raw" in error.details(), error


def reflection():
    with channel() as opened:
        database = ProtoReflectionDescriptorDatabase(opened)
        if headers:
            # The client of grpcio-reflection sends no metadata.
            try:
                database.get_services()
                raise SystemExit("reflection without a token")
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
            return
        services = database.get_services()
        assert "inference.GRPCInferenceService" in services and "grpc.health.v1.Health" in services, services
        service = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
        assert "ModelStreamInfer" in service.methods_by_name, list(service.methods_by_name)
        health = DescriptorPool(database).FindServiceByName("grpc.health.v1.Health")
        # A health check as a load balancer sends it, by hand: an empty name is the whole server, 1 is SERVING.
        check = opened.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"") == b"\x08\x01" and "Check" in health.methods_by_name


async def asyncio_clients(ssl):
    one = inputs(thttp)
    options = {"ssl": True, "ssl_context": ssl} if secure else {}
    async with ahttp.InferenceServerClient(url=http_address, **options) as client:
        assert await client.is_server_ready(**more())
        check(await client.infer("types", one, **more()))
        results = await asyncio.gather(*(client.infer("types", one, **more()) for _ in range(8)))
        for result in results:
            check(result)
    options = {"ssl": True, "root_certificates": ca} if secure else {}
    one = inputs(tgrpc)
    async with agrpc.InferenceServerClient(url=grpc_address, **options) as client:
        assert await client.is_server_ready(**more())
        results = await asyncio.gather(*(client.infer("types", one, **more()) for _ in range(8)))
        for result in results:
            check(result)

        async def requests():
            for number in range(3):
                yield {"model_name": "types", "inputs": one, "request_id": f"a-{number}"}

        ids = []
        async for result, error in client.stream_infer(requests(), **more()):
            assert error is None, error
            check(result)
            ids.append(result.get_response().id)
        assert ids == ["a-0", "a-1", "a-2"], ids


def unix_socket():
    """tritonclient knows no Unix sockets; its connections are opened here by a socket of that kind."""
    import gevent.socket

    class Pool(geventhttpclient.connectionpool.ConnectionPool):
        def _resolve(self):
            return [(gevent.socket.AF_UNIX, gevent.socket.SOCK_STREAM, 0, "", socket_path)]

    original = geventhttpclient.connectionpool.ConnectionPool
    import geventhttpclient.client as module

    kept, module.ConnectionPool = module.ConnectionPool, Pool
    try:
        client = thttp.InferenceServerClient(url="localhost")
        http(client)
        client.close()
    finally:
        module.ConnectionPool = kept
    assert original is kept


if secure:
    import ssl as python_ssl

    context = python_ssl.create_default_context(cafile=ca)
    client = thttp.InferenceServerClient(
        url=http_address, ssl=True, ssl_context_factory=lambda *_a, **_k: context, insecure=False
    )
    http(client)
    grpc_client = tgrpc.InferenceServerClient(url=grpc_address, ssl=True, root_certificates=ca)
    for call in (lambda: client.is_server_live(), lambda: grpc_client.is_server_live()):
        try:
            assert not call(), "a call without a token was answered"
        except InferenceServerException as error:
            assert "UNAUTHENTICATED" in str(error.status()), error
else:
    context = None
    http(thttp.InferenceServerClient(url=http_address))
    grpc_client = tgrpc.InferenceServerClient(url=grpc_address)
rpc(grpc_client)
reflection()
asyncio.run(asyncio_clients(context))
if socket_path != "-":
    unix_socket()
print("all well")
