"""Goal: espalier_reward.py does what verl and TRL expect, waits out a busy or absent service, and never makes a failure a reward.
Method: the file against a real espalier-reward, and against a server that refuses as told."""
import http.server
import importlib.util
import json
import os
import pathlib
import threading
import time
import unittest
from unittest import mock

from reward_http_test import Service

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "services/reward/python/espalier_reward.py"
SPEC = importlib.util.spec_from_file_location("espalier_reward", SOURCE)
espalier_reward = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(espalier_reward)


def environment(**values):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_REWARD_")}
    return mock.patch.dict(os.environ, {**clean, **{"ESPALIER_REWARD_" + name: value for name, value in values.items()}},
                           clear=True)


class Refusing:
    """Answers the codes that it is given, one a request, then 200 with one right score for each trace."""

    def __init__(self, *codes):
        self.codes = list(codes)
        self.times = []

    def __enter__(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.times.append(time.monotonic())
                code = outer.codes.pop(0) if outer.codes else 200
                reply = {"error": {"message": f"told to say {code}"}}
                if code == 200:
                    reply = {"scores": [{"total": 1.5, "verdict": "VERDICT_CORRECT", "extracted": "14", "reason": "",
                                         "reflections": 0, "hesitations": 0} for _ in request["traces"]]}
                body = json.dumps(reply).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                if code in (429, 503):
                    self.send_header("Retry-After", "1")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class AgainstTheService(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service().__enter__()
        cls.addClassCleanup(cls.service.__exit__)

    def test_verl(self):
        with environment(URL=self.service.url):
            right = espalier_reward.compute_score("gsm8k", "12 + 7 = 19. 19 - 5 = 14. The answer is 14.", "14", {"split": "x"})
            wrong = espalier_reward.compute_score(data_source="gsm8k", solution_str="#### 15", ground_truth=14, extra_info=None)
        self.assertIsInstance(right["score"], float)
        self.assertTrue(right["acc"])
        self.assertEqual("14", right["pred"])
        self.assertFalse(wrong["acc"])
        self.assertLess(wrong["score"], 0)

    def test_verl_raises_where_there_is_no_verdict_unless_told_what_it_is_worth(self):
        with environment(URL=self.service.url):
            with self.assertRaisesRegex(espalier_reward.RewardAbstained, "cannot be read"):
                espalier_reward.compute_score("x", "The answer is 14.", "\\frac{1}{")
        with environment(URL=self.service.url, ABSTAIN="-0.5"):
            score = espalier_reward.compute_score("x", "The answer is 14.", "\\frac{1}{")
            self.assertEqual((-0.5, True), (score["score"], score["abstained"]))
        with environment(URL=self.service.url, ABSTAIN="nothing"):
            with self.assertRaisesRegex(espalier_reward.RewardError, "ABSTAIN: found 'nothing'"):
                espalier_reward.compute_score("x", "The answer is 14.", "\\frac{1}{")

    def test_trl(self):
        completions = ["The answer is 14.", "The answer is 15.", "The answer is 4.", "x"]
        with environment(URL=self.service.url):
            for column in ("answer", "solution", "ground_truth"):
                rewards = espalier_reward.reward_func(prompts=["a", "a", "b", "c"], completions=completions, trainer_state=None,
                                                      **{column: ["14", "14", 4, "\\frac{1}{"]})
                self.assertGreater(rewards[0], 0)
                self.assertLess(rewards[1], 0)
                self.assertGreater(rewards[2], 0)
                self.assertIsNone(rewards[3])

    def test_trl_with_messages_and_a_column_of_its_own(self):
        prompts = [[{"role": "system", "content": "Think."}, {"role": "user", "content": "12 + 7 - 5?"}]] * 2
        completions = [[{"role": "assistant", "content": f"The answer is {n}."}] for n in (14, 13)]
        reward = espalier_reward.make_reward_func(column="gold", length_shaping="group")
        with environment(URL=self.service.url):
            good, bad = reward(prompts=prompts, completions=completions, gold=["14", "14"])
            self.assertGreater(good, bad)
            with self.assertRaisesRegex(espalier_reward.RewardError, "no column 'gold'; it has answer"):
                reward(prompts=prompts, completions=completions, answer=["14", "14"])

    def test_a_refusal_is_an_error_in_plain_words(self):
        with environment(URL=self.service.url, PARAMETERS="preset=none/9"):
            with self.assertRaisesRegex(espalier_reward.RewardError, "400: reward.preset: "):
                espalier_reward.compute_score("x", "14", "14")
        with environment(URL=self.service.url):
            with self.assertRaisesRegex(espalier_reward.RewardError, "400: reference: empty"):
                espalier_reward.compute_score("x", "14", "")
            with self.assertRaisesRegex(espalier_reward.RewardError, r"completions\[0\]: found int"):
                espalier_reward.reward_func(prompts=["a"], completions=[3], answer=["14"])
            with self.assertRaisesRegex(espalier_reward.RewardError, "needed are 2 references"):
                espalier_reward.reward_func(prompts=["a", "a"], completions=["x", "y"], answer=["14"])

    def test_verify(self):
        with environment(URL=self.service.url):
            self.assertEqual("VERDICT_CORRECT", espalier_reward.Client().verify("1/2", "0.5")["verdict"])


class WhenThingsGoWrong(unittest.TestCase):
    def test_waits_as_long_as_a_busy_service_asks(self):
        with Refusing(429, 503) as server, environment(URL=server.url):
            self.assertEqual(1.5, espalier_reward.compute_score("x", "14", "14")["score"])
        self.assertEqual(3, len(server.times))
        self.assertGreaterEqual(server.times[2] - server.times[0], 2)

    def test_gives_up_with_the_last_cause(self):
        with Refusing(*[503] * 50) as server, environment(URL=server.url, PATIENCE="1.5"):
            with self.assertRaisesRegex(espalier_reward.RewardError, "told to say 503.*tried for 1.5 s"):
                espalier_reward.compute_score("x", "14", "14")

    def test_does_not_repeat_what_is_wrong_in_itself(self):
        for code in (400, 401, 404, 413, 500):
            with Refusing(code) as server, environment(URL=server.url):
                with self.assertRaisesRegex(espalier_reward.RewardError, f"told to say {code}"):
                    espalier_reward.compute_score("x", "14", "14")
            self.assertEqual(1, len(server.times))

    def test_an_absent_service_is_named(self):
        with environment(URL="http://127.0.0.1:9", PATIENCE="0.5"):
            with self.assertRaisesRegex(espalier_reward.RewardError, "is espalier-reward running with --http"):
                espalier_reward.compute_score("x", "14", "14")

    def test_settings_are_checked(self):
        with environment():
            with self.assertRaisesRegex(espalier_reward.RewardError, "ESPALIER_REWARD_URL: not set"):
                espalier_reward.compute_score("x", "14", "14")
        with environment(URL="127.0.0.1:7003"):
            with self.assertRaisesRegex(espalier_reward.RewardError, "begins with http://"):
                espalier_reward.compute_score("x", "14", "14")
        with environment(URL="http://127.0.0.1:9", TIMEOUT="soon"):
            with self.assertRaisesRegex(espalier_reward.RewardError, "TIMEOUT: found 'soon'"):
                espalier_reward.compute_score("x", "14", "14")


if __name__ == "__main__":
    unittest.main(verbosity=2)
