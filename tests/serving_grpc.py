"""TensorFlow Serving's gRPC interface, for `tests.serving_server`."""

import concurrent.futures

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from tests.serving_models import Refused


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models):
        self._models = models

    def Predict(self, request, context):
        return _guarded(self._models.predict, request, context)

    def GetModelMetadata(self, request, context):
        return _guarded(self._models.metadata, request, context)


class Status(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models):
        self._models = models

    def GetModelStatus(self, request, context):
        return _guarded(self._models.status, request, context)


def _guarded(answer, request, context):
    try:
        return answer(request)
    except Refused as refused:
        context.abort(grpc.StatusCode[refused.code], str(refused))


def start(models):
    """Serves from now on; returns the port."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    workers = concurrent.futures.ThreadPoolExecutor(4)
    server = grpc.server(workers, options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(models), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(models), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    models.running = server  # which ends when nobody holds it
    return port
