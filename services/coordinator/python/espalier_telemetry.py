"""Expert loads of any trainer to Espalier's coordinator, and its advice back.

One file, Python 3.8 and later, no dependency but grpcio. Rank 0 of a PyTorch (or any other) trainer
gathers how many tokens each expert received in a step and reports them; the coordinator keeps the
history, sees when the loads are stable and says where each expert should go:

    telemetry = Telemetry.submit("127.0.0.1:7001", name="my-run", layers=16, experts=64, top_k=8,
                                 ranks=8, expert_bytes=3 * 2048 * 1024 * 12)
    placement = telemetry.initial_placement()              # {layer: [rank of each expert]}
    for step in range(1, steps + 1):
        ...                                                 # train; counts[layer] = tokens per expert
        for advice in telemetry.report(step, counts, step_seconds=seconds):
            move_experts(advice.placement, advice.dropped)  # yours
            telemetry.acknowledge(advice, step)
    telemetry.finish()

`report` returns when the step is durable. It raises TelemetryError, which names what was wrong; a
report that failed may be sent again, for reports are idempotent by rank and step.
"""
import math
import struct
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Sequence

__all__ = ["Advice", "Telemetry", "TelemetryError"]


class TelemetryError(Exception):
    """What the coordinator, or the way to it, said: `code` is gRPC's, such as "INVALID_ARGUMENT"."""

    def __init__(self, code: str, text: str):
        super().__init__(f"{code}: {text}")
        self.code = code


@dataclass
class Advice:
    """A plan to carry out. Experts that are dropped have no rank; masked ones must not be routed to."""

    sequence: int
    decision_id: str
    placement: Dict[int, Dict[int, int]]  # layer -> expert -> rank
    dropped: Dict[int, List[int]] = field(default_factory=dict)
    masked: Dict[int, List[int]] = field(default_factory=dict)


# The messages used here, by field number, as protos/espalier/v1 declares them:
# name -> {field: (number, type)}; [type] is repeated, packed where it is a number.
_SCHEMA = {
    "Workers": {"count": (1, "uint")},
    "Model": {"layers": (1, "uint"), "experts": (6, "uint"), "top_k": (7, "uint"), "dense_layers": (10, "uint")},
    "Prune": {
        "enabled": (1, "uint"), "alpha": (2, "double"), "beta": (3, "double"), "keep_multiple_of": (4, "uint"),
        "keep_min": (5, "uint"), "keep_min_fraction": (6, "double"), "protected_experts": (7, ["uint"]),
        "window_steps": (8, "uint"), "stable_rank_correlation": (9, "double"), "stable_shift": (10, "double"),
        "stable_checks": (11, "uint"), "earliest_step": (12, "uint"), "fixed_step": (13, "uint"), "score": (14, "uint"),
        "stable_layers": (15, "double"), "latest_step": (16, "uint"), "soft_steps": (17, "uint"),
    },
    "Placement": {
        "enabled": (1, "uint"), "window_steps": (2, "uint"), "trigger": (3, "double"), "extra_slots": (4, "uint"),
        "interval_steps": (5, "uint"), "min_gain": (6, "double"), "horizon_steps": (7, "uint"),
        "bytes_per_second": (8, "double"), "moves_max_share": (9, "double"), "ranks_per_node": (10, "uint"),
        "expert_bytes": (11, "double"), "tolerance": (12, "double"),
    },
    "RunSpec": {
        "name": (1, "string"), "workers": (3, "Workers"), "model": (4, "Model"), "prune": (7, "Prune"),
        "placement": (8, "Placement"), "kind": (11, "uint"),
    },
    "SubmitRunRequest": {"spec": (1, "RunSpec"), "request_id": (2, "string")},
    "Run": {"run_id": (1, "string"), "state": (2, "uint"), "spec": (3, "RunSpec")},
    "SubmitRunResponse": {"run": (1, "Run")},
    "GetRunRequest": {"run_id": (1, "string")},
    "GetRunResponse": {"run": (1, "Run")},
    "Duration": {"seconds": (1, "uint"), "nanos": (2, "uint")},
    "Phases": {"experts_seconds": (5, "double")},
    "Metrics": {"loss": (1, "double"), "global_tokens": (4, "uint"), "heldout_loss": (5, "double")},
    "LayerLoads": {"layer": (1, "uint"), "experts": (2, ["uint"]), "tokens": (3, ["uint"]), "output_norms": (4, ["uint"])},
    "StepReport": {
        "rank": (3, "uint"), "first_step": (4, "uint"), "last_step": (5, "uint"), "tokens": (8, "uint"),
        "duration": (9, "Duration"), "phases": (10, "Phases"), "loads": (11, ["LayerLoads"]), "metrics": (12, "Metrics"),
    },
    "CommandAck": {"sequence": (4, "uint"), "step": (5, "uint"), "pause": (6, "Duration"), "bytes_moved": (9, "uint"), "error": (11, "string")},
    "End": {"outcome": (4, "uint"), "error": (5, "string")},
    "ReportStepsRequest": {"run_id": (1, "string"), "reports": (2, ["StepReport"]), "acks": (3, ["CommandAck"]), "end": (4, "End")},
    "LayerLayout": {"layer": (1, "uint"), "experts": (2, ["uint"]), "ranks": (3, ["uint"]), "masked": (4, ["uint"])},
    "Layout": {"layers": (1, ["LayerLayout"])},
    "Command": {"sequence": (1, "uint"), "decision_id": (2, "string"), "set_layout": (4, "Layout")},
    "ReportStepsResponse": {"durable_step": (1, "uint"), "advice": (2, ["Command"]), "ended": (3, "uint")},
    "PlanOptions": {"prune": (1, "Prune"), "placement": (2, "Placement"), "skip_prune": (3, "uint"), "skip_placement": (4, "uint")},
    "ProposePlanRequest": {"run_id": (1, "string"), "options": (2, "PlanOptions")},
    "LayerCertificate": {
        "layer": (1, "uint"), "experts_before": (2, "uint"), "experts_after": (3, "uint"), "pruned": (4, ["uint"]),
        "max_over_mean_before": (6, "double"), "max_over_mean_after": (7, "double"), "lower_bound_over_mean": (8, "double"),
        "moves": (9, "uint"),
    },
    "Plan": {
        "layout": (1, "Layout"), "layers": (2, ["LayerCertificate"]), "imbalance_before": (3, "double"),
        "imbalance_after": (4, "double"), "experts_moved": (5, "uint"), "bytes_moved": (6, "uint"),
        "experts_pruned": (7, "uint"), "empty": (10, "uint"), "reason": (11, "string"), "move_seconds": (16, "double"),
        "payback_steps": (17, "double"),
    },
    "ProposePlanResponse": {"plan": (1, "Plan")},
}
_METHODS = {
    "SubmitRun": ("RunService", "SubmitRunRequest", "SubmitRunResponse"),
    "GetRun": ("RunService", "GetRunRequest", "GetRunResponse"),
    "ReportSteps": ("FleetService", "ReportStepsRequest", "ReportStepsResponse"),
    "ProposePlan": ("PlanService", "ProposePlanRequest", "ProposePlanResponse"),
}


def _varint(value: int) -> bytes:
    if value < 0:
        raise TelemetryError("INVALID_ARGUMENT", f"{value} is negative; counts begin at 0")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _encode(kind: str, message: Mapping) -> bytes:
    out = bytearray()
    for name, value in message.items():
        number, of = _SCHEMA[kind][name]
        repeated = isinstance(of, list)
        of = of[0] if repeated else of
        if repeated and of == "uint":
            packed = b"".join(map(_varint, value))
            out += _varint(number << 3 | 2) + _varint(len(packed)) + packed
            continue
        for item in value if repeated else [value]:
            if of == "uint":
                out += _varint(number << 3) + _varint(int(item))
            elif of == "double":
                out += _varint(number << 3 | 1) + struct.pack("<d", item)
            else:
                data = item.encode() if of == "string" else _encode(of, item)
                out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return bytes(out)


def _decode(kind: str, data: bytes) -> dict:
    """Unknown fields are skipped; absent ones take their type's empty value."""
    schema = _SCHEMA[kind]
    by_number = {number: (name, of) for name, (number, of) in schema.items()}
    message = {
        name: [] if isinstance(of, list) else {"uint": 0, "double": 0.0, "string": ""}.get(of)
        for name, (_, of) in schema.items()
    }
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    try:
        while at < len(data):
            key = varint()
            wire = key & 7
            if wire == 0:
                raw = varint()
            elif wire == 1:
                raw, at = struct.unpack_from("<d", data, at)[0], at + 8
            elif wire == 5:
                raw, at = None, at + 4
            elif wire == 2:
                size = varint()
                raw, at = data[at:at + size], at + size
                if len(raw) != size:
                    raise IndexError
            else:
                raise IndexError
            name, of = by_number.get(key >> 3, (None, None))
            if name is None:
                continue
            repeated = isinstance(of, list)
            of = of[0] if repeated else of
            if of == "uint" and wire == 2:  # packed
                end, at = at, at - len(raw)
                while at < end:
                    message[name].append(varint())
                continue
            value = raw if of in ("uint", "double") else raw.decode() if of == "string" else _decode(of, raw)
            if repeated:
                message[name].append(value)
            else:
                message[name] = value
    except (IndexError, struct.error) as error:
        raise TelemetryError("DATA_LOSS", f"a {kind} from the coordinator ends too early") from error
    return message


def _grpc_transport(target: str, timeout: float) -> Callable[[str, bytes], bytes]:
    try:
        import grpc
    except ImportError as error:
        raise TelemetryError(
            "UNAVAILABLE", "the Python package grpcio is not installed; pip install grpcio, or give a transport"
        ) from error
    channel = grpc.insecure_channel(target)

    def call(path: str, request: bytes) -> bytes:
        try:
            # Bytes in, bytes out: the messages are encoded above.
            return channel.unary_unary(path)(request, timeout=timeout, wait_for_ready=True)
        except grpc.RpcError as error:
            raise TelemetryError(error.code().name, error.details()) from error

    return call


class Telemetry:
    """One run of kind external. Not thread-safe: belongs to rank 0's training loop.

    `transport(path, request_bytes) -> response_bytes` stands in for grpcio where another client is at
    hand; it raises TelemetryError.
    """

    def __init__(self, target: str, run_id: str, timeout: float = 30.0,
                 transport: Optional[Callable[[str, bytes], bytes]] = None):
        self._call_bytes = transport or _grpc_transport(target, timeout)
        run = self._call("GetRun", {"run_id": run_id})["run"]
        if run["spec"]["kind"] != 2:
            raise TelemetryError("FAILED_PRECONDITION", f"run {run_id} is not of kind external")
        self.run_id: str = run["run_id"]
        self.layers: int = run["spec"]["model"]["layers"]
        self.dense_layers: int = run["spec"]["model"]["dense_layers"]
        self.experts: int = run["spec"]["model"]["experts"]
        self.ranks: int = run["spec"]["workers"]["count"]
        # Complete: the coordinator has filled every default in.
        self._policies = {name: run["spec"][name] for name in ("placement", "prune")}
        self.ended = False
        self.placement = self.initial_placement()
        self._acks: List[dict] = []

    @classmethod
    def submit(cls, target: str, *, name: str, layers: int, experts: int, top_k: int, ranks: int,
               expert_bytes: float, dense_layers: int = 0, request_id: str = "",
               placement: Optional[Mapping] = None, prune: Optional[Mapping] = None, timeout: float = 30.0,
               transport: Optional[Callable[[str, bytes], bytes]] = None) -> "Telemetry":
        """Starts a run, or finds the one with the same request_id. `expert_bytes`: weights and optimizer
        state that move with one expert. `placement` and `prune` hold fields of the policies of a run
        spec, such as {"window_steps": 100}; pruning is off unless prune={"enabled": True, …}."""
        spec = {
            "name": name,
            "workers": {"count": ranks},
            "model": {"layers": layers, "experts": experts, "top_k": top_k, "dense_layers": dense_layers},
            "placement": {**(placement or {}), "expert_bytes": float(expert_bytes)},
            "kind": 2,
        }
        if prune:
            spec["prune"] = prune
        for policy, schema in (("placement", "Placement"), ("prune", "Prune")):
            unknown = set(spec.get(policy, {})) - set(_SCHEMA[schema])
            if unknown:
                raise TelemetryError(
                    "INVALID_ARGUMENT",
                    f"{policy}.{sorted(unknown)[0]}: no such field; known are {', '.join(sorted(_SCHEMA[schema]))}")
        call = transport or _grpc_transport(target, timeout)
        service, request, response = _METHODS["SubmitRun"]
        submitted = _decode(response, call(f"/espalier.v1.{service}/SubmitRun",
                                           _encode(request, {"spec": spec, "request_id": request_id})))
        return cls(target, submitted["run"]["run_id"], timeout, call)

    def initial_placement(self) -> Dict[int, List[Optional[int]]]:
        """Experts in index order, evenly over the ranks; None for a dropped expert. Set `placement` when
        yours is another."""
        return {layer: [expert * self.ranks // self.experts for expert in range(self.experts)]
                for layer in range(self.dense_layers, self.layers)}

    def report(self, step: int, counts: Mapping[int, Sequence[int]], *, step_seconds: float,
               experts_seconds: float = 0.0, tokens: int = 0, loss: Optional[float] = None,
               output_norms: Optional[Mapping[int, Sequence[float]]] = None) -> List[Advice]:
        """Tokens that each expert received in `step` (from 1), over all ranks, by layer. `experts_seconds`
        is the part of `step_seconds` in which ranks wait for the one with most tokens: without it no
        saving can be predicted. Returns what to carry out now; [] mostly."""
        reports = []
        for rank in range(self.ranks):
            loads = []
            for layer, of_expert in sorted(counts.items()):
                self._check(layer, of_expert)
                mine = [e for e, where in enumerate(self.placement[layer]) if where == rank]
                entry = {"layer": layer, "experts": mine, "tokens": [int(of_expert[e]) for e in mine]}
                if output_norms is not None:
                    entry["output_norms"] = [int(1000 * output_norms[layer][e]) for e in mine]
                loads.append(entry)
            report = {
                "rank": rank, "first_step": step, "last_step": step, "tokens": tokens // self.ranks,
                "duration": _duration(step_seconds), "phases": {"experts_seconds": float(experts_seconds)},
                "loads": loads,
            }
            if rank == 0:
                report["metrics"] = {"global_tokens": tokens}
                if loss is not None:
                    report["metrics"]["loss"] = float(loss)
            reports.append(report)
        return self._send({"reports": reports})

    def acknowledge(self, advice: Advice, step: int, *, pause_seconds: float = 0.0, bytes_moved: int = 0,
                    error: str = "") -> None:
        """Says, with the next report, that all ranks carried `advice` out right after `step`; `error` declines
        it. Reports then speak of the new placement."""
        self._acks.append({"sequence": advice.sequence, "step": step, "pause": _duration(pause_seconds),
                           "bytes_moved": bytes_moved, "error": error})
        if error:
            return
        for layer, where in advice.placement.items():
            self.placement[layer] = [where.get(expert) for expert in range(self.experts)]

    def propose(self, *, placement: Optional[Mapping] = None, prune: Optional[Mapping] = None) -> dict:
        """A plan on the newest loads, by the run's own policies with the fields given instead; changes nothing.
        Its keys are those of the message Plan: layout, imbalance_before, imbalance_after, experts_moved, …"""
        options = {name: {**self._policies[name], **given}
                   for name, given in (("placement", placement), ("prune", prune)) if given is not None}
        return self._call("ProposePlan", {"run_id": self.run_id, "options": options})["plan"]

    def finish(self, error: str = "") -> None:
        """The training is over; with `error`, it failed."""
        self._send({"end": {"outcome": 3 if error else 1, "error": error}})

    def _check(self, layer: int, of_expert: Sequence[int]) -> None:
        if layer not in self.placement:
            raise TelemetryError("INVALID_ARGUMENT", f"counts[{layer}]: the run's MoE layers are "
                                                     f"{self.dense_layers} to {self.layers - 1}")
        if len(of_expert) != self.experts:
            raise TelemetryError("INVALID_ARGUMENT",
                                 f"counts[{layer}]: {len(of_expert)} experts; the run has {self.experts}")

    def _send(self, request: dict) -> List[Advice]:
        acks, self._acks = self._acks, []
        try:
            response = self._call("ReportSteps", {"run_id": self.run_id, "acks": acks, **request})
        except TelemetryError:
            self._acks = acks + self._acks  # said again with the next report
            raise
        self.ended = bool(response["ended"])
        return [self._advice(command) for command in response["advice"] if command["set_layout"] is not None]

    def _advice(self, command: dict) -> Advice:
        advice = Advice(command["sequence"], command["decision_id"], {})
        for layer in command["set_layout"]["layers"]:
            where = dict(zip(layer["experts"], layer["ranks"]))
            index = layer["layer"]
            advice.placement[index] = where
            gone = [e for e, rank in enumerate(self.placement[index]) if rank is not None and e not in where]
            if gone:
                advice.dropped[index] = gone
            if layer["masked"]:
                advice.masked[index] = layer["masked"]
        return advice

    def _call(self, method: str, request: dict) -> dict:
        service, request_type, response_type = _METHODS[method]
        data = self._call_bytes(f"/espalier.v1.{service}/{method}", _encode(request_type, request))
        return _decode(response_type, data)


def _duration(seconds: float) -> dict:
    if not math.isfinite(seconds) or seconds < 0:
        raise TelemetryError("INVALID_ARGUMENT", f"{seconds} seconds; give a finite number from 0")
    whole = int(seconds)
    return {"seconds": whole, "nanos": int((seconds - whole) * 1e9)}
