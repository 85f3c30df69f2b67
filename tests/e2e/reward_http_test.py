"""Goal: the HTTP door answers trainers as they expect, refuses what is bad by name, and drains. Method: urllib and raw sockets
against a real espalier-reward."""
import hashlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

BIN = pathlib.Path(os.environ.get("ESPALIER_BIN", "build/release/bin")).resolve()
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Service:
    """An espalier-reward with its doors on free ports. Use as a context manager."""

    def __init__(self, *flags):
        self.flags = flags
        self.log = tempfile.NamedTemporaryFile(suffix=".log")

    def __enter__(self):
        self.process = subprocess.Popen([BIN / "espalier-reward", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
                                         *map(str, self.flags)], stderr=self.log)
        deadline = time.monotonic() + 30
        while "reward_listening" not in self.text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"espalier-reward did not start:\n{self.text()}")
            time.sleep(0.02)
        self.address = self.field("reward_http_listening", "address")
        self.grpc = self.field("reward_listening", "address")
        self.url = f"http://{self.address}"
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()

    def text(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def field(self, event, name):
        line = next(line for line in self.text().splitlines() if f"] {event} " in line)
        return next(word.split("=", 1)[1] for word in line.split() if word.startswith(name + "="))

    def call(self, path, body=None, headers=None):
        """(status, parsed body, headers) of one request; a body makes it a POST."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers or {})
        try:
            with OPENER.open(request, timeout=60) as reply:
                return reply.status, json.loads(reply.read()), reply.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read()), error.headers

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(60)


def batch(count, size=1000, reference="14"):
    text = "Then 12 + 7 = 19, so we go on. " * (size // 31)
    return {"reference": reference,
            "traces": [{"trace_id": str(i), "text": f"{text}The answer is {14 + i}."} for i in range(count)]}


class HttpDoor(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service("--threads", 2).__enter__()
        cls.addClassCleanup(cls.service.__exit__)

    def refuse(self, path, body, status, field, *words):
        code, reply, _ = self.service.call(path, body)
        self.assertEqual(status, code, reply)
        self.assertEqual(field, reply["error"].get("field", ""), reply)
        for word in words:
            self.assertIn(word, reply["error"]["message"])

    def test_get_reward_answers_in_the_order_of_the_queries(self):
        prompts = ["<|user|>12 + 7 - 5?<|assistant|>", "<|user|>2 + 2?<|assistant|>"]
        queries, labels, asked = [], [], []
        for answer in (14, 4, 15):
            for prompt, label in zip(prompts, ("14", 4)):
                queries.append(f"{prompt}The answer is {answer}.<|im_end|>\n<|endoftext|>")
                asked.append(prompt)
                labels.append(label)
        code, reply, _ = self.service.call("/get_reward", {"query": queries, "prompts": asked, "labels": labels})
        self.assertEqual(200, code, reply)
        self.assertEqual([1, 0, 0, 1, 0, 0], reply["scores"])
        self.assertEqual({"rewards", "scores", "extra_logs"}, set(reply))
        for name, values in {"rewards": reply["rewards"], **reply["extra_logs"]}.items():
            self.assertEqual(6, len(values), name)
        for reward, right in zip(reply["rewards"], reply["scores"]):
            self.assertGreater(reward * (1 if right else -1), 0)

    def test_get_reward_shapes_the_lengths_of_a_group(self):
        body = {"query": [f"p{'so ' * words}The answer is 14." for words in (0, 50, 400)], "prompts": ["p"] * 3,
                "labels": ["14"] * 3}
        code, plain, _ = self.service.call("/get_reward", body)
        self.assertEqual(200, code, plain)
        self.assertEqual([0, 0, 0], plain["extra_logs"]["length_part"])
        code, shaped, _ = self.service.call("/get_reward?length_shaping=group&length_weight=1", body)
        self.assertEqual(200, code, shaped)
        short, middle, long = shaped["extra_logs"]["length_part"]
        self.assertTrue(short > middle > long, shaped)

    def test_get_reward_says_that_it_abstained(self):
        code, reply, _ = self.service.call("/get_reward", {"query": ["The answer is 14."], "labels": ["\\frac{1}{"]})
        self.assertEqual(200, code)
        self.assertEqual([1], reply["extra_logs"]["abstained"])

    def test_get_reward_refuses_by_name(self):
        self.refuse("/get_reward", {"prompts": []}, 400, "query", "missing")
        self.refuse("/get_reward", {"query": "one text", "labels": ["1"]}, 400, "query", "found string")
        self.refuse("/get_reward", {"query": ["x"]}, 400, "labels", "missing")
        self.refuse("/get_reward", {"query": ["x", "y"], "labels": ["1"]}, 400, "labels", "1 entries for 2")
        self.refuse("/get_reward", {"query": ["x"], "labels": [None]}, 400, "labels[0]", "found null")
        self.refuse("/get_reward", {"query": ["x"], "labels": [""]}, 400, "labels[0]", "empty")
        self.refuse("/get_reward", {"query": ["x"], "prompts": ["another"], "labels": ["1"]}, 400, "query[0]",
                    "prompts=keep")
        self.refuse("/get_reward", {"query": [], "labels": []}, 400, "query", "1 to")
        self.refuse("/get_reward?prest=dapo/1", {"query": ["x"], "labels": ["1"]}, 400, "prest")
        self.refuse("/get_reward?preset=none/9", {"query": ["x"], "labels": ["1"]}, 400, "reward.preset")
        self.refuse("/get_reward?reflection_max=-1", {"query": ["x"], "labels": ["1"]}, 400, "reward.reflection_max", "-1")
        code, _, _ = self.service.call("/get_reward?prompts=keep", {"query": ["x"], "prompts": ["another"], "labels": ["1"]})
        self.assertEqual(200, code)

    def test_score_is_the_batch_of_the_proto(self):
        code, reply, _ = self.service.call("/score", batch(40))
        self.assertEqual(200, code, reply)
        self.assertEqual([str(i) for i in range(40)], [score["trace_id"] for score in reply["scores"]])
        self.assertEqual(["VERDICT_CORRECT"] + ["VERDICT_WRONG"] * 39, [score["verdict"] for score in reply["scores"]])
        self.assertEqual(40, reply["group"]["scored"])
        self.refuse("/score", {"reference": "14"}, 400, "traces", "found 0")
        self.refuse("/score", {"refrence": "14"}, 400, "refrence")
        self.refuse("/score", {"reference": "14", "traces": [{"text": "x", "token_count": -1}]}, 400, "traces[0].token_count")
        self.refuse("/score", {"reference": "14", "traces": [{"text": "x" * (1 << 20) + "x"}]}, 400, "traces[0].text")
        self.refuse("/score", {"reference": "1" * 65537, "traces": [{"text": "x"}]}, 400, "reference", "65537")

    def test_verify(self):
        code, reply, _ = self.service.call("/verify", {"reference": "1/2", "answer": "so it is \\boxed{0.5}"})
        self.assertEqual((200, "VERDICT_CORRECT", "0.5"), (code, reply["verdict"], reply["extracted"]))
        code, reply, _ = self.service.call("/verify", {"reference": "125 miles", "answer": "125", "strict_units": True})
        self.assertEqual((200, "VERDICT_WRONG"), (code, reply["verdict"]))

    def test_malformed_bodies_are_400_and_leave_the_service_up(self):
        for body in (b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b"[" * 200_000, b'{"query": ' * 50_000, b"\0" * 1000,
                     b'{"query": ["\\ud800"], "labels": ["1"]}'):
            for path in ("/get_reward", "/score", "/verify"):
                code, reply, _ = self.service.call(path, body)
                self.assertEqual(400, code, (path, body[:20], reply))
                self.assertTrue(reply["error"]["message"])
        self.assertEqual(200, self.service.call("/healthz")[0])

    def test_a_body_beyond_the_limit_is_413_announced_or_not(self):
        host, port = self.service.address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.putrequest("POST", "/score")
        connection.putheader("Content-Length", str(1 << 40))
        connection.endheaders()
        self.assertEqual(413, connection.getresponse().status)
        connection.close()
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("POST", "/score", iter([b" " * (1 << 20)] * 60), encode_chunked=True,
                               headers={"Transfer-Encoding": "chunked"})
            self.assertEqual(413, connection.getresponse().status)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it need not read what it will not take
        connection.close()

    def test_paths_and_methods(self):
        self.assertEqual(404, self.service.call("/nothing")[0])
        self.assertEqual(404, self.service.call("/../../etc/passwd")[0])
        code, _, headers = self.service.call("/score")
        self.assertEqual((405, "POST"), (code, headers["Allow"]))
        self.assertEqual(405, self.service.call("/healthz", {})[0])

    def test_garbage_on_the_socket_does_no_harm(self):
        host, port = self.service.address.split(":")
        for text in (b"\x16\x03\x01garbage\r\n\r\n", b"POST /score HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
                     b"POST /score HTTP/1.1\r\nContent-Length: 100\r\n\r\nshort", b"GET " + b"/" * 50_000 + b" HTTP/1.1\r\n\r\n"):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                try:
                    connection.sendall(text)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass
        self.assertEqual(200, self.service.call("/healthz")[0])

    def test_stats_add_up(self):
        before = self.service.call("/stats")[1]
        self.service.call("/score", batch(3))
        self.service.call("/score", {"reference": ""})
        after = self.service.call("/stats")[1]
        grown = lambda group, name: after[group][name] - before[group][name]
        self.assertEqual((1, 1), (grown("requests", "answered"), grown("requests", "invalid")))
        self.assertEqual((1, 2), (grown("verdicts", "correct"), grown("verdicts", "wrong")))
        for stage in ("queue", "score", "write", "call"):
            times = after["stages"][stage]
            self.assertGreater(times["count"], before["stages"][stage]["count"], stage)
            self.assertTrue(0 <= times["p50_ms"] <= times["p99_ms"] <= times["max_ms"], times)


class Process(unittest.TestCase):
    def test_beyond_loopback_needs_insecure(self):
        done = subprocess.run([BIN / "espalier-reward", "--listen", "127.0.0.1:0", "--http", "0.0.0.0:0"], capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(1, done.returncode)
        self.assertIn("--http: 0.0.0.0:0 is not loopback", done.stderr)

    def test_a_token_file_guards_this_door_too(self):
        with tempfile.NamedTemporaryFile("w") as tokens:
            for name, role in (("trainer", "submitter"), ("screen", "viewer")):
                tokens.write(f"{name} {role} {hashlib.sha256(f'esp_{name}'.encode()).hexdigest()}\n")
            tokens.flush()
            with Service("--tokens", tokens.name) as service:
                def ask(header):
                    return service.call("/score", batch(1), {"Authorization": header} if header else {})[0]
                self.assertEqual([401, 401, 403, 200], [ask(header) for header in
                                                        (None, "Bearer esp_nobody", "Bearer esp_screen", "Bearer esp_trainer")])
                self.assertEqual(401, service.call("/stats")[0])
                self.assertEqual(200, service.call("/healthz")[0])

    def test_beyond_its_bound_it_says_when_to_come_again(self):
        with Service("--threads", 1) as service:
            host, port = service.address.split(":")
            body = json.dumps(batch(1)).encode()
            head = b"POST /score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            taken = []
            for _ in range(64):
                taken.append(socket.create_connection((host, int(port)), timeout=20))
                taken[-1].sendall(head + body[:10])  # the rest comes later
            deadline = time.monotonic() + 10
            code = 200
            while code == 200 and time.monotonic() < deadline:
                code, reply, headers = service.call("/score", batch(1))
            self.assertEqual(429, code)
            self.assertGreater(int(headers["Retry-After"]), 0)
            self.assertEqual(200, service.call("/healthz")[0])
            for connection in taken:
                connection.sendall(body[10:])
            for connection in taken:
                with connection, connection.makefile("rb") as reply:
                    self.assertIn(b" 200 ", reply.readline())
            self.assertEqual(200, service.call("/score", batch(1))[0])

    def test_slow_samples_are_logged_without_their_text(self):
        with Service("--slow-ms", 0.001) as service:
            text = "secret " * 100 + "\nThe answer is 14."
            service.call("/score", {"reference": "14", "traces": [{"trace_id": "a\nb", "text": text}]})
            line = next(line for line in service.text().splitlines() if "slow_sample " in line)
            self.assertIn('id="a\\nb"', line)
            self.assertIn(f"bytes={len(text)} verdict=VERDICT_CORRECT rule=integer_equal ms=", line)
            self.assertLess(line.count("secret"), 13)
            self.assertEqual(1, service.call("/stats")[1]["slow_samples"])

    def test_a_drain_answers_what_was_taken_and_refuses_the_rest(self):
        with Service("--threads", 1) as service:
            results = []
            threads = [threading.Thread(target=lambda: results.append(service.call("/score", batch(1000, 3000))))
                       for _ in range(6)]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + 30
            while service.call("/stats")[1]["stages"]["queue"]["count"] < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            service.process.send_signal(signal.SIGTERM)
            while "reward_draining" not in service.text():
                time.sleep(0.005)
            try:
                code, _, headers = service.call("/score", batch(1))
                self.assertEqual(503, code)
                self.assertGreater(int(headers["Retry-After"]), 0)
                self.assertEqual(503, service.call("/healthz")[0])
            except (urllib.error.URLError, ConnectionError):
                self.assertIsNotNone(service.process.wait(20), "refused only once everything was answered")
            for thread in threads:
                thread.join()
            self.assertEqual(0, service.process.wait(60))
            answered = [reply for code, reply, _ in results if code == 200]
            self.assertGreaterEqual(len(answered), 1)
            for reply in answered:
                self.assertEqual(1000, len(reply["scores"]))
            self.assertEqual({200, 503} | {code for code, _, _ in results}, {200, 503})
            self.assertIn(f"reward_stopped answered={len(answered)} ", service.text())

    def test_a_drain_is_bounded(self):
        with Service("--threads", 1, "--drain-seconds", 0.3) as service:
            def ask():
                try:
                    service.call("/score", batch(300, 20000))
                except (urllib.error.URLError, ConnectionError, http.client.HTTPException):
                    pass
            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.5)
            start = time.monotonic()
            self.assertEqual(0, service.stop())
            self.assertLess(time.monotonic() - start, 15)
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    unittest.main(verbosity=2)
