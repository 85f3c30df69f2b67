"""Rewards from an espalier-reward service, for trainers written in Python: verl, TRL, or any loop of your own.

One file, Python's standard library only: copy it beside your trainer. The service must have its HTTP door open:

    espalier-reward --http 127.0.0.1:7003
    export ESPALIER_REWARD_URL=http://127.0.0.1:7003

verl:  custom_reward_function.path=espalier_reward.py custom_reward_function.name=compute_score
TRL:   GRPOTrainer(reward_funcs=espalier_reward.reward_func, ...) with a column answer, solution or ground_truth

Every failure is a RewardError that says what to do. Nothing is ever turned into a reward of 0: a trace that the service
cannot judge gives None to TRL, which leaves it out, and raises RewardAbstained in compute_score, unless you ask for another
value there with ESPALIER_REWARD_ABSTAIN.

Environment:
  ESPALIER_REWARD_URL        of the door; required
  ESPALIER_REWARD_PARAMETERS fields of RewardSpec, such as preset=rirm-safe/1 or length_shaping=group
  ESPALIER_REWARD_TOKEN_FILE file with a bearer token, where the service asks for one
  ESPALIER_REWARD_TIMEOUT    seconds that one attempt may take (30)
  ESPALIER_REWARD_PATIENCE   seconds until a busy or absent service is an error (120)
  ESPALIER_REWARD_ABSTAIN    raise (default), or the number that compute_score gives a trace without a verdict
"""
import json
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request

__all__ = ["RewardError", "RewardAbstained", "Client", "compute_score", "reward_func", "make_reward_func"]

LABEL_COLUMNS = ("ground_truth", "answer", "solution", "reference", "label")
RETRIED = {429, 502, 503, 504}
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0


class RewardError(RuntimeError):
    """The service could not be reached, or refused the request; the text says why and what to do."""


class RewardAbstained(RewardError):
    """The service has no verdict on this trace; the text is its reason."""


class Client:
    """Speaks to one service. Holds no connection; may be used by several threads and be pickled."""

    def __init__(self, url=None, parameters=None, timeout=None, patience=None, token_file=None):
        self.url = (url or os.environ.get("ESPALIER_REWARD_URL", "")).rstrip("/")
        if not self.url:
            raise RewardError("ESPALIER_REWARD_URL: not set; start espalier-reward with --http 127.0.0.1:7003 and set it to "
                              "http://127.0.0.1:7003")
        if not self.url.startswith(("http://", "https://")):
            raise RewardError(f"ESPALIER_REWARD_URL: found {self.url!r}; it begins with http:// or https://")
        given = parameters if parameters is not None else os.environ.get("ESPALIER_REWARD_PARAMETERS", "")
        self.spec = _spec(given)
        self.timeout = _seconds("ESPALIER_REWARD_TIMEOUT", timeout, 30.0)
        self.patience = _seconds("ESPALIER_REWARD_PATIENCE", patience, 120.0)
        self.token_file = token_file or os.environ.get("ESPALIER_REWARD_TOKEN_FILE")

    def score(self, reference, traces, prompt=""):
        """The scores of one group of traces, as dicts with the fields of espalier.v1.Score, in order."""
        request = {"reference": str(reference), "prompt": prompt, "reward": self.spec,
                   "traces": [{"trace_id": str(index), "text": text} for index, text in enumerate(traces)]}
        scores = self._post("/score", request).get("scores")
        if not isinstance(scores, list) or len(scores) != len(request["traces"]):
            raise RewardError(f"{self.url}/score: the reply does not hold {len(request['traces'])} scores; is this address "
                              "an espalier-reward of this version?")
        return scores

    def verify(self, reference, answer):
        """The verdict on an answer, as a dict with the fields of espalier.v1.VerifyAnswerResponse."""
        return self._post("/verify", {"reference": str(reference), "answer": answer})

    def _post(self, path, request):
        body = json.dumps(request).encode()
        give_up = time.monotonic() + self.patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._attempt(path, body)
            except urllib.error.HTTPError as error:
                cause, wait = self._refusal(path, error)
                if error.code not in RETRIED:
                    raise RewardError(cause) from None
            except (urllib.error.URLError, OSError) as error:
                wait = 0.0
                reason = getattr(error, "reason", error)
                cause = f"{self.url}{path}: {reason}; is espalier-reward running with --http at this address?"
            # Workers that were refused together must not come back together.
            wait = max(wait, pause * random.uniform(0.5, 1.0))
            if time.monotonic() + wait > give_up:
                raise RewardError(f"{cause} (tried for {self.patience:g} s; ESPALIER_REWARD_PATIENCE sets how long)")
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _attempt(self, path, body):
        headers = {"Content-Type": "application/json"}
        if self.token_file:
            with open(self.token_file, encoding="utf-8") as file:
                headers["Authorization"] = "Bearer " + file.read().strip()
        request = urllib.request.Request(self.url + path, data=body, headers=headers, method="POST")
        # Proxies of the environment are for the outside world, not for a service of one's own.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=self.timeout) as reply:
            text = reply.read()
        try:
            return json.loads(text)
        except ValueError:
            raise RewardError(f"{self.url}{path}: the reply is no JSON; is this address an espalier-reward?") from None

    def _refusal(self, path, error):
        """What an HTTP error says, and the seconds that the service asks to wait."""
        with error:
            text = error.read(65536).decode("utf-8", "replace")
        try:
            message = json.loads(text)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = text.strip()[:200] or error.reason
        try:
            wait = float(error.headers.get("Retry-After", 0))
        except ValueError:
            wait = 0.0
        return f"{self.url}{path} answered {error.code}: {message}", wait


def _spec(parameters):
    """RewardSpec's fields from a dict or from "name=value&name=value"."""
    if isinstance(parameters, str):
        pairs = urllib.parse.parse_qsl(parameters, keep_blank_values=True)
        spec = {name: {"true": True, "false": False}.get(value, value) for name, value in pairs}
    else:
        spec = dict(parameters)
    shaping = spec.get("length_shaping")
    if isinstance(shaping, str) and not shaping.startswith("LENGTH_SHAPING_"):
        spec["length_shaping"] = "LENGTH_SHAPING_" + shaping.upper()
    return spec


def _seconds(name, given, default):
    text = given if given is not None else os.environ.get(name, default)
    try:
        seconds = float(text)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise RewardError(f"{name}: found {text!r}, needed is a number of seconds above 0")
    return seconds


def _text(value, what):
    """A text, or the last message of a conversation."""
    if isinstance(value, (list, tuple)) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if isinstance(value, dict):
        value = value.get("content")
    if not isinstance(value, str):
        raise RewardError(f"{what}: found {type(value).__name__}, needed is a text or a list of messages with content")
    return value


def _prompt(value):
    if isinstance(value, (list, tuple)):
        return "\n".join(_text(message, "prompt") for message in value)
    return _text(value, "prompt")


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """verl's reward: {"score": total, ...} of one solution; what else is in it shows up in verl's metrics."""
    del data_source  # the verifier reads every kind of answer
    client = Client()
    prompt = ""
    if isinstance(extra_info, dict) and isinstance(extra_info.get("question"), str):
        prompt = extra_info["question"]
    score = client.score(ground_truth, [_text(solution_str, "solution_str")], prompt)[0]
    value = float(score["total"])
    abstained = score["verdict"] not in ("VERDICT_CORRECT", "VERDICT_WRONG")
    if abstained:
        chosen = os.environ.get("ESPALIER_REWARD_ABSTAIN", "raise")
        if chosen == "raise":
            raise RewardAbstained(f"no verdict on this solution against {str(ground_truth)[:80]!r}: {score['reason']} "
                                  "(mend the reference, or set ESPALIER_REWARD_ABSTAIN to the reward it shall get)")
        try:
            value = float(chosen)
        except ValueError:
            raise RewardError(f"ESPALIER_REWARD_ABSTAIN: found {chosen!r}, needed is raise or a number") from None
    return {"score": value, "acc": score["verdict"] == "VERDICT_CORRECT", "abstained": abstained,
            "pred": score["extracted"], "reflections": score["reflections"], "hesitations": score["hesitations"]}


def make_reward_func(column=None, client=None, **parameters):
    """TRL's reward function, with its own column of references or its own fields of RewardSpec."""

    def espalier_reward(prompts=None, completions=None, **columns):
        if completions is None:
            raise RewardError("completions: missing; TRL passes them by name")
        references = _references(column, columns, len(completions))
        asked = client or Client(parameters=parameters or None)
        prompts = prompts if prompts is not None else [""] * len(completions)
        rewards = [None] * len(completions)
        for (prompt, reference), places in _groups(prompts, references).items():
            texts = [_text(completions[place], f"completions[{place}]") for place in places]
            for place, score in zip(places, asked.score(reference, texts, prompt)):
                # None is left out of the group's mean, unlike a 0.
                judged = score["verdict"] in ("VERDICT_CORRECT", "VERDICT_WRONG")
                rewards[place] = float(score["total"]) if judged else None
        return rewards

    return espalier_reward


def _references(column, columns, count):
    name = column or next((name for name in LABEL_COLUMNS if name in columns), None)
    if name is None or name not in columns:
        wanted = repr(column) if column else "one of " + ", ".join(LABEL_COLUMNS)
        raise RewardError(f"the dataset has no column {wanted}; it has {', '.join(sorted(columns)) or 'none'}: name the one "
                          "with the right answers, make_reward_func(column=...)")
    references = columns[name]
    if isinstance(references, str) or len(references) != count:
        raise RewardError(f"{name}: needed are {count} references, one for each completion")
    return [str(reference) for reference in references]


def _groups(prompts, references):
    """Places by prompt and reference: the completions of one prompt are a group, whose lengths are compared."""
    groups = {}
    for place, (prompt, reference) in enumerate(zip(prompts, references)):
        groups.setdefault((_prompt(prompt), reference), []).append(place)
    return groups


def reward_func(prompts=None, completions=None, **columns):
    """TRL's reward function with the column that is there; see make_reward_func for others."""
    return make_reward_func()(prompts=prompts, completions=completions, **columns)
