"""A gRPC client that was told nothing: every name and type comes from the daemon by reflection."""

import contextlib

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Client:
    """A channel, with callables for the methods of `posthaste.v1`, and `types` for its messages."""

    def __init__(self, target, credentials=None, token=None, options=()):
        self.channel = (grpc.secure_channel(target, credentials, options) if credentials
                        else grpc.insecure_channel(target, options))
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def close(self):
        self.channel.close()

    def type(self, name):
        """A message class by its full name; of posthaste.v1 without."""
        name = name if "." in name else f"posthaste.v1.{name}"
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def method(self, service, name):
        """A method as a callable."""
        described = self.pool.FindServiceByName(f"posthaste.v1.{service}").methods_by_name[name]
        shape = {
            (False, False): self.channel.unary_unary, (True, True): self.channel.stream_stream,
            (False, True): self.channel.unary_stream,
        }[described.client_streaming, described.server_streaming]
        request, response = (message_factory.GetMessageClass(each)
                             for each in (described.input_type, described.output_type))
        call = shape(f"/posthaste.v1.{service}/{name}", request.SerializeToString, response.FromString)
        return lambda *arguments, **options: call(
            *arguments, **{"timeout": 60, "metadata": self.metadata, "wait_for_ready": True, **options})

    # What the tests do most.

    def request(self, **fields):
        return self.type("SubmitRequest")(**fields)

    def submit(self, **fields):
        return self.method("Submission", "Submit")(self.request(**fields))

    def message(self, message_id):
        return self.method("Submission", "GetMessage")(self.type("GetMessageRequest")(message_id=message_id))

    def watch(self, **fields):
        return self.method("Events", "Watch")(self.type("WatchRequest")(**fields))

    # What failed, and why.

    def details(self, error):
        """The details of a failed call, by type: {"BadRequest": message}."""
        trailers = {key: value for key, value in error.trailing_metadata() or ()}
        return self.unpack(self.type("google.rpc.Status").FromString(trailers["grpc-status-details-bin"]))

    def unpack(self, status):
        """The details of a google.rpc.Status, by type."""
        names = [detail.type_url.rpartition("/")[2] for detail in status.details]
        return {name.rpartition(".")[2]: self.type(name).FromString(detail.value)
                for name, detail in zip(names, status.details, strict=True)}


@contextlib.contextmanager
def fails(code):
    """The block ends in this status; the error is in `.error` of what this yields."""

    class Caught:
        error = None

    caught = Caught()
    try:
        yield caught
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        caught.error = error
    else:
        raise AssertionError(f"no {code}")
