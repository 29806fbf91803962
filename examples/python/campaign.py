"""Hands a campaign over by gRPC, each message exactly once, however often this is interrupted and run again.

    python campaign.py CAMPAIGN RECIPIENT...
    POSTHASTE_GRPC=127.0.0.1:2580    where the daemon is
    POSTHASTE_TOKEN=...              who we are; not needed from a trusted network
"""

import os
import sys
import time

import grpc
from google.rpc import code_pb2, error_details_pb2
from posthaste.v1 import submission_pb2, submission_pb2_grpc

AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN)


def request(campaign, to):
    """One message. The key is made of what it is about, so that a second run has the same."""
    return submission_pb2.SubmitRequest(
        idempotency_key=f"{campaign}/{to}",
        campaign=campaign,
        tags=["example"],
        parts=submission_pb2.Parts(
            to=[submission_pb2.Mailbox(address=to)], subject="Spring sale", text="Everything must go.\n",
            # `from` and `class` are words of Python.
            **{"from": submission_pb2.Mailbox(address="news@shop.test", name="The shop")}),
        **{"class": submission_pb2.CLASS_BULK})


def send(stub, metadata, waiting):
    """Sends all that waits over one stream and takes out what has its answer. (seconds to wait, refused)"""
    sent, wait, refused = list(waiting.items()), 0, 0
    for result in stub.SubmitStream(iter([each for _, each in sent]), metadata=metadata):
        key, error = sent[result.index][0], result.error
        if result.WhichOneof("result") == "receipt":
            print(f"{key}: {result.receipt.message_id}{' (accepted before)' if result.receipt.replayed else ''}")
            del waiting[key]
        elif error.code in (code_pb2.UNAVAILABLE, code_pb2.RESOURCE_EXHAUSTED):
            delay = error_details_pb2.RetryInfo()
            found = any(detail.Unpack(delay) for detail in error.details if detail.Is(delay.DESCRIPTOR))
            wait = max(wait, delay.retry_delay.ToTimedelta().total_seconds() if found else 1)
        else:  # It would be refused every time: somebody must look at it.
            print(f"{key}: {error.message}", file=sys.stderr)
            refused += 1
            del waiting[key]
    return wait, refused


def main(campaign, *recipients):
    token = os.environ.get("POSTHASTE_TOKEN")
    metadata = [("authorization", f"Bearer {token}")] if token else []
    waiting = {each.idempotency_key: each for each in (request(campaign, to) for to in recipients)}
    refused = 0
    with grpc.insecure_channel(os.environ.get("POSTHASTE_GRPC", "127.0.0.1:2580")) as channel:
        stub = submission_pb2_grpc.SubmissionStub(channel)
        for round in range(20):
            try:
                wait, more = send(stub, metadata, waiting)
                refused += more
            except grpc.RpcError as error:  # The stream broke: what has no receipt is sent again.
                if error.code() not in AGAIN:
                    raise
                print(error.details(), file=sys.stderr)
                wait = 0.2 * 2 ** min(round, 8)
            if not waiting:
                return 1 if refused else 0
            time.sleep(wait)
    sys.exit(f"{len(waiting)} have no receipt; run this again")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
