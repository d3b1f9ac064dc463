"""Flower's messages without its engine: nodes of this process, and what bad clients do to their replies."""

import itertools
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from studylib.federated.app import client_app

FIRST = 100  # id of the node of client 0


class Nodes(Grid):
    """A grid of ``count`` nodes that answer at once, each with ``app``.

    ``spoil(client, round, reply)`` gives the reply that arrives, None for silence. ``sent`` has all training messages.
    """

    def __init__(self, count: int, app: ClientApp | None = None, spoil: Callable | None = None):
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # as Flower's engine does
        self.count, self.app, self.spoil, self.sent, self.replies = count, app or client_app(), spoil, [], []

    def get_node_ids(self):
        return [FIRST + k for k in reversed(range(self.count))]

    def send_and_receive(self, messages, *, timeout=None):
        found = []
        for message in messages:
            client = message.metadata.dst_node_id - FIRST
            config = {"partition-id": client, "num-partitions": self.count}
            context = Context(run_id=1, node_id=FIRST + client, node_config=config, state=RecordDict(), run_config={})
            try:
                reply = self.app(message, context)
            except Exception as error:
                reply = Message(Error(code=1, reason=str(error)), reply_to=message)
            if message.metadata.message_type == "train":
                self.sent.append(message)
                number = message.content["config"]["round"]
                reply = self.spoil(client, number, reply) if self.spoil else reply
                self.replies += [reply] if reply is not None else []
            found += [reply] if reply is not None else []
        return found

    def set_run(self, run): ...

    @property
    def run(self): ...

    def create_message(self, *arguments, **more): ...

    def push_messages(self, messages): ...

    def pull_messages(self, message_ids): ...


def spoilt(kind: str, reply: Message) -> Message | None:
    """``reply`` as a client that is ``kind`` of bad would have sent it."""
    arrays = reply.content["arrays"]
    name = next(iter(arrays))
    given = arrays[name]
    if kind == "silent":
        return None
    if kind == "dropped out":
        raise AssertionError("a client that drops out sends nothing that could be spoilt")
    if kind == "not finite":
        array = given.numpy().copy()
        array.flat[0] = np.nan
        arrays[name] = Array(array)
    elif kind == "other shapes":
        arrays[name] = Array(np.zeros((*given.shape, 2), np.float32))
    elif kind == "missing":
        reply.content["arrays"] = ArrayRecord(dict(itertools.islice(arrays.items(), 1, None)))
    elif kind == "damaged":
        arrays[name] = Array(given.dtype, given.shape, given.stype, given.data[: len(given.data) // 2])
    elif kind == "empty":
        reply.content["arrays"] = ArrayRecord()
    elif kind == "other weight":
        reply.content["metrics"] = MetricRecord({"num-examples": 10**9})
    elif kind == "no weight":
        del reply.content["metrics"]
    return reply
