"""The federation by Flower: its ServerApp, ClientApp and strategies; imports flwr, which the extra federated brings.

Flower runs the rounds, carries the messages and averages. Here is what is in a message, and who is left out of a round.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, FedProx
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from studylib.data import scoring
from studylib.disk import files
from studylib.federated import messages
from studylib.federated.job import RESULT, Job, scored
from studylib.federated.messages import MessageError, State
from studylib.federated.sides import Client, Server, forget
from studylib.training import loop

CODED = "coded"  # the name of a coded message among arrays
ALL = {"fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1}


def client_app(**more) -> ClientApp:
    """Flower's ClientApp of all jobs; ``more`` are arguments of it, such as ``mods``."""
    app = ClientApp(**more)
    app.query()(_introduce)
    app.train()(_train)
    return app


def _introduce(message: Message, context: Context) -> Message:
    own = _client(message, context)
    found = {"client": own.number, "num-examples": own.examples()}
    return Message(RecordDict({"metrics": MetricRecord(found)}), reply_to=message)


def _train(message: Message, context: Context) -> Message:
    loop.set_up(threads=1, device="cpu")
    own, arrays, config = _client(message, context), message.content["arrays"], message.content["config"]
    number, mu = int(config["round"]), float(config.get("proximal-mu", 0.0))
    if CODED in arrays:
        record = _record(own.answer(arrays[CODED].data, int(config["base"]), number, mu))
    else:
        record = _record(own.train(_state(arrays), number, mu))
    metrics = MetricRecord({"num-examples": own.examples()})
    return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)


def _client(message: Message, context: Context) -> Client:
    """The client that a node is. Its folder is the node's own if it has one, else the server's on the same machine."""
    folder = Path(str(context.node_config.get("folder") or message.content["config"]["folder"]))
    number = int(context.node_config["partition-id"])
    return Client(Job.load(folder), number, folder / "clients" / str(number))


def server_app(folders: Iterable[str] = ()) -> ServerApp:
    """Flower's ServerApp of the jobs in ``folders``, one after the other; without any, of its run's ``folder``."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        loop.set_up(threads=1, device="cpu")
        for folder in list(folders) or [str(context.run_config["folder"])]:
            if not (Path(folder) / RESULT).exists():
                run(Job.load(Path(folder)), grid)

    return app


def run(job: Job, grid: Grid) -> dict:
    """Runs ``job`` from the last round that it has kept on. Its result is left in its folder, too.

    Returns:
        What :func:`studylib.federated.job.scored` gives of the test images; of each round a row, "rounds".
        Sums over these: bytes "down" and "up", "asked", "used", and "left_out", kind → how many.

    Raises:
        RuntimeError: clients do not answer. No client's weights could be used in any round.
    """
    server = Server(job)
    nodes = _roll_call(job, grid)
    strategy = Prox(server, nodes) if job.federation.strategy == "fedprox" else Average(server, nodes)
    left = job.federation.rounds - server.round
    if left > 0:
        strategy.start(grid, _record(server.weights), left, timeout=job.federation.timeout)
    if not any(row["used"] for row in server.rows):
        kinds = ", ".join(sorted({kind for row in server.rows for kind in row["left_out"]}))
        raise RuntimeError(f"{job.folder}: no client could be used in any of {server.round} rounds ({kinds})")
    model = job.model()
    model.load_state_dict({**model.state_dict(), **server.weights})
    left_out: dict[str, int] = {}
    for kind, count in (pair for row in server.rows for pair in row["left_out"].items()):
        left_out[kind] = left_out.get(kind, 0) + count
    sums = {name: sum(row[name] for row in server.rows) for name in ("down", "up", "asked", "used")}
    found = scored(model, job.data()) | sums | {"left_out": left_out, "rounds": server.rows}
    files.write_tensors(job.folder / "student.safetensors", model.state_dict())
    files.write_json(job.folder / RESULT, found)
    forget(job.folder)
    return found


def _roll_call(job: Job, grid: Grid) -> dict[int, tuple[int, int]]:
    """Client → its node and how many images it trains with."""
    content = RecordDict({"config": ConfigRecord({"folder": str(job.folder)})})
    asked = [Message(content=content, message_type="query", dst_node_id=node) for node in grid.get_node_ids()]
    nodes = {}
    for reply in grid.send_and_receive(asked, timeout=job.federation.timeout):
        if reply.has_error():
            raise RuntimeError(f"{job.folder}: a client cannot start: {reply.error.reason}")
        found = reply.content["metrics"]
        if found["client"] < job.splits.clients:  # nodes are there for the largest job
            nodes[int(found["client"])] = (reply.metadata.src_node_id, int(found["num-examples"]))
    if sorted(nodes) != list(range(job.splits.clients)):
        raise RuntimeError(f"{job.folder}: clients {sorted(nodes)} answered: expected {job.splits.clients} of them")
    return nodes


class Careful:
    """What is added to Flower's strategies: whom a round asks, what is sent, what is averaged.

    Args:
        server: decides and keeps; it must not have begun the round that is next.
        nodes: of :func:`_roll_call`.
    """

    def __init__(self, server: Server, nodes: dict[int, tuple[int, int]], **more):
        super().__init__(**ALL, **more)
        self.server, self.nodes = server, nodes
        self._by_node = {node: client for client, (node, _) in nodes.items()}
        self._asked: list[int] = []
        self._down = 0

    def configure_train(self, server_round, arrays, config, grid) -> list[Message]:
        chosen = self.server.chosen({client: count for client, (_, count) in self.nodes.items()})
        coded = self.server.job.federation.form != "flower"
        offers = self.server.offer(chosen) if coded else {}
        found = []
        for message in super().configure_train(server_round, arrays, config, grid):
            client = self._by_node.get(message.metadata.dst_node_id)
            if client not in chosen:
                continue
            about = {"folder": str(self.server.job.folder), "round": self.server.round + 1}
            about |= {key: value for key, value in message.content["config"].items() if key != "server-round"}
            record = message.content["arrays"]
            if coded:
                record, about["base"] = _record(offers[client][0]), offers[client][1]
            content = RecordDict({"arrays": record, "config": ConfigRecord(about)})
            node = message.metadata.dst_node_id
            found.append(Message(content=content, message_type=message.metadata.message_type, dst_node_id=node))
        self._asked, self._down = chosen, sum(map(size, found))
        return found

    def aggregate_train(self, server_round, replies):
        replies, sound, left_out = list(replies), {}, {}
        up = sum(size(reply) for reply in replies if not reply.has_error())
        for reply in replies:
            client = self._by_node[reply.metadata.src_node_id]
            try:
                sound[client] = self._checked(client, reply)
            except MessageError as error:
                left_out[error.kind] = left_out.get(error.kind, 0) + 1
        if silent := len(self._asked) - len(replies):
            left_out["silent"] = silent
        used = sorted(sound)  # sums of floats depend on the order
        arrays, metrics = super().aggregate_train(server_round, [sound[client] for client in used])
        weights = None if arrays is None else _state(arrays)
        row = {"left_out": left_out, "down": self._down, "up": up}
        row["validation"] = self._validated(self.server.weights if weights is None else weights)
        self.server.finish(weights, row, used, self._asked)
        return arrays, metrics

    def _checked(self, client: int, reply: Message) -> Message:
        """``reply`` with the client's whole weights in it; MessageError says why it cannot be averaged."""
        if reply.has_error():
            raise MessageError("dropped out", reply.error.reason)
        try:
            arrays, count = reply.content["arrays"], reply.content["metrics"]["num-examples"]
            if self.server.job.federation.form != "flower":
                weights = self.server.take(arrays[CODED].data)
            else:
                weights = _state(arrays)
                messages.check(weights, self.server.weights)
        except MessageError:
            raise
        except Exception as error:  # whatever Flower or NumPy say of what a stranger sent
            raise MessageError("damaged", f"{type(error).__name__}: {error}") from error
        if count != self.nodes[client][1]:
            raise MessageError("other weight", f"num-examples={count!r}: expected {self.nodes[client][1]}")
        reply.content["arrays"] = _record(weights)
        return reply

    def _validated(self, weights: State) -> float:
        model, data = self.server.job.model(), self.server.job.data()
        model.load_state_dict({**model.state_dict(), **weights})
        return scoring.accuracy(model, data.validation, data)


class Average(Careful, FedAvg):
    """Flower's FedAvg (McMahan et al. 2017)."""


class Prox(Careful, FedProx):
    """Flower's FedProx (Li et al. 2020), which tells clients µ."""

    def __init__(self, server: Server, nodes: dict[int, tuple[int, int]]):
        super().__init__(server, nodes, proximal_mu=server.job.federation.mu)


def size(message: Message) -> int:
    """Bytes of a message as Flower serializes it: all its objects, without what its connection adds to each."""
    return sum(len(each.deflate()) for each in get_all_nested_objects(message).values())


def _record(given: State | bytes) -> ArrayRecord:
    if isinstance(given, bytes):
        return ArrayRecord({CODED: Array(dtype="uint8", shape=(len(given),), stype="bytes", data=given)})
    return ArrayRecord({name: Array(np.ascontiguousarray(tensor.numpy())) for name, tensor in given.items()})


def _state(arrays: ArrayRecord) -> State:
    return {name: torch.from_numpy(np.array(array.numpy(), dtype=np.float32)) for name, array in arrays.items()}
