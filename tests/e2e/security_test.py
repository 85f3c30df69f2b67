"""Goal: with mutual TLS and tokens on, a run completes and new files are taken up under way, and whoever shows no, wrong or expired
credentials is refused by every service, in words that name the remedy. Method: the real programs, certificates made by openssl."""
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

from authority import Authority, new_token
from suite import BIN, Suite, free_port, write_corpus

TINY = "deploy/runs/tiny.yaml"
SHORT = {"stages[0].pretrain.steps": 4, "stages[0].pretrain.eval_every": 0, "stages[1].finetune.steps": 2, "stages[2].reinforce.steps": 1,
         "prune.enabled": "false"}
ROLES = ("viewer", "submitter", "worker", "admin")
SCORE = ("reward", "score", "--reference", "14", "--trace", "The answer is 14.")


class Credentials:
    """Files of an operator, and those that a wrong caller would bring."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.stranger = Authority(folder, "stranger-authority")
        self.stranger.issue("strange")
        self.sign_by(Authority(folder, "authority"))
        self.trust(self.authority)
        lines = [new_token(self.folder / f"{role}.token", role, role) for role in ROLES]
        new_token(self.folder / "unknown.token", "unknown", "admin")
        lines.append(re.sub(r"\S+$", "2020-01-01T00:00:00Z", new_token(self.folder / "late.token", "late", "admin")))
        (self.folder / "tokens").write_text("\n".join(lines) + "\n")

    def sign_by(self, authority):
        """Replaces every certificate by one of this authority."""
        self.authority = authority
        for name in ("coordinator", "reward", "client"):
            authority.issue(name)
        authority.issue("expired", days=-1)
        authority.issue("elsewhere", hosts="DNS:elsewhere.example")

    def trust(self, *authorities):
        """From now on everybody trusts these authorities."""
        fresh = self.folder / "trusted.pem.new"
        fresh.write_text("".join(each.certificate.read_text() for each in authorities))
        fresh.rename(self.folder / "trusted.pem")

    def server(self, name):
        at = self.folder
        return ["--tls-cert", at / f"{name}.pem", "--tls-key", at / f"{name}.key", "--tls-client-ca", at / "trusted.pem",
                "--tokens", at / "tokens"]

    def client(self, token="submitter", certificate="client", trusted="trusted"):
        """Flags of a caller; None leaves that part out."""
        at = self.folder
        flags = [] if trusted is None else ["--tls-ca", at / f"{trusted}.pem"]
        if certificate is not None:
            flags += ["--tls-client-cert", at / f"{certificate}.pem", "--tls-client-key", at / f"{certificate}.key"]
        return flags if token is None else [*flags, "--token-file", at / f"{token}.token"]

    # What is wrong, the flags that show it, and what the caller must be told.
    def refused(self):
        return [
            ("no TLS", self.client(None, None, None), 3, "it speaks TLS: give --tls-ca"),
            ("no TLS but a token", self.client(certificate=None, trusted=None), 3, "it speaks TLS: give --tls-ca"),
            ("no certificate", self.client(certificate=None), 3, "give --tls-client-cert and --tls-client-key"),
            ("another authority's certificate", self.client(certificate="strange"), 3, "signed by an authority of its --tls-client-ca"),
            ("trust in another authority", self.client(trusted="stranger-authority"), 3, "give its authority as --tls-ca"),
            ("an expired certificate", self.client(certificate="expired"), 2, "has expired; renew it"),
            ("no token", self.client(token=None), 5, "--token-file"),
            ("an unknown token", self.client(token="unknown"), 5, "espalier token new"),
            ("an expired token", self.client(token="late"), 5, "expired at 2020-01-01T00:00:00+00:00; ask for a new one"),
        ]


def handshake(address, folder, certificate, trusted="trusted"):
    """What a client of Python's own TLS gets: the server's certificate as bytes, or None when it is not let in."""
    context = ssl.create_default_context(cafile=folder / f"{trusted}.pem")
    context.load_cert_chain(folder / f"{certificate}.pem", folder / f"{certificate}.key")
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=host) as secured:
                # The server speaks first in HTTP/2; under TLS 1.3 a refusal comes only here.
                return secured.getpeercert(binary_form=True) if secured.recv(1) else None
        except (ssl.SSLError, ConnectionError):
            return None


class SecureSuite(Suite):
    """A suite whose services ask for certificates and tokens."""

    def __init__(self, credentials, workers=2):
        self.credentials = credentials
        flags = {"coordinator": credentials.server("coordinator"), "reward": credentials.server("reward"),
                 "cli": credentials.client("submitter")}
        flags |= {f"worker-{index}": credentials.client("worker") for index in range(workers)}
        super().__init__(workers, flags=flags)

    def cli_as(self, flags, *arguments, code=0):
        before, self.flags["cli"] = self.flags["cli"], flags
        try:
            return self.cli(*arguments, code=code)
        finally:
            self.flags["cli"] = before


class Security(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="espalier-credentials-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.credentials = Credentials(cls.folder.name)
        cls.suite = SecureSuite(cls.credentials)
        cls.addClassCleanup(cls.suite.__exit__, None, None, None)
        cls.suite.__enter__()
        write_corpus(cls.suite.data / "corpus.txt")

    def test_a_run_completes_while_every_file_is_replaced(self):
        suite, credentials, at = self.suite, self.credentials, self.credentials.folder
        run = suite.submit(TINY, **{"stages[0].pretrain.steps": 1000})
        suite.wait_step(run, 5)
        before = handshake(suite.coordinator, at, "client")
        self.assertIsNotNone(before)
        # As an operator does it: trust both authorities, let the new one sign everything, then drop the old one.
        fresh = Authority(at, "fresh-authority")
        credentials.authority.issue("left-behind")
        credentials.trust(credentials.authority, fresh)
        self.assertTrue(handshake(suite.coordinator, at, "left-behind"))
        credentials.sign_by(fresh)
        for address in (suite.coordinator, suite.reward):
            suite.wait_for(lambda: handshake(address, at, "client", "fresh-authority"), 20, f"{address} shows its new certificate")
        credentials.trust(fresh)
        for address in (suite.coordinator, suite.reward):
            suite.wait_for(lambda: handshake(address, at, "left-behind") is None, 20, f"{address} has dropped the old authority")
        # Tokens likewise: the workers' is replaced, the old one is refused.
        old = (at / "worker.token").read_text()
        line = new_token(at / "worker.token.new", "worker", "worker")
        kept = [each for each in (at / "tokens").read_text().splitlines() if not each.startswith("worker ")]
        (at / "tokens.new").write_text("\n".join([*kept, line]) + "\n")
        (at / "tokens.new").rename(at / "tokens")
        (at / "worker.token.new").rename(at / "worker.token")
        (at / "unknown.token").write_text(old)
        suite.wait_for(lambda: "unknown token" in suite.cli_as(credentials.client("unknown"), *SCORE, code=None), 20, "the old token is refused")
        self.assertEqual(suite.run(run)["state"], "RUN_STATE_RUNNING", "all that happened while the run went on")

        done = suite.wait_end(run)
        self.assertEqual(int(done["epoch"]), 1, "no rank was lost")
        self.assertEqual(suite.step(run), 1000 + 30 + 3, "to the last step of the reinforce stage, which asks the reward service")
        for worker in ("worker-0", "worker-1"):
            self.assertEqual(suite.log(worker).count("] attached "), 1, "the stream lived through it")
            self.assertNotIn("stream_broken", suite.log(worker))
        for name in suite.processes:
            self.assertNotRegex(suite.log(name), r"esp_[0-9a-f]{8}", "no token stands in a log")

    def test_coordinator_and_reward_service_refuse_bad_callers(self):
        for service, command in (("coordinator", ("workers", "list")), ("reward service", SCORE)):
            for what, flags, code, told in self.credentials.refused():
                with self.subTest(service=service, what=what):
                    text = self.suite.cli_as(flags, *command, code=code)
                    self.assertIn(told, text)
                    self.assertNotIn("ssl_transport_security", text, "gRPC's own words stay out")
                    if code != 2:
                        self.assertIn(service, text)

    def test_an_expired_certificate_is_refused_by_the_server_too(self):
        for address in (self.suite.coordinator, self.suite.reward):
            self.assertTrue(handshake(address, self.credentials.folder, "client"))
            for name in ("expired", "strange"):
                self.assertIsNone(handshake(address, self.credentials.folder, name), f"{name} at {address}")

    def test_a_server_with_a_bad_certificate_is_not_trusted(self):
        address = f"127.0.0.1:{free_port()}"
        server = subprocess.Popen([BIN / "espalier-reward", "--listen", address, *map(str, self.credentials.server("elsewhere"))],
                                  stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        before, self.suite.reward = self.suite.reward, address
        self.addCleanup(setattr, self.suite, "reward", before)
        self.suite.wait_for(lambda: 'is not for "127.0.0.1"' in self.suite.cli(*SCORE, code=3), 20, "the wrong name is refused")

    def test_a_worker_without_good_credentials_is_told_so_and_not_attached(self):
        cases = [(what, flags, told) for what, flags, code, told in self.credentials.refused() if code != 2]
        cases.append(("a role that may not", self.credentials.client("submitter"), "these may: worker, admin"))
        for index, (_, flags, _) in enumerate(cases):
            self.suite.flags[f"worker-{10 + index}"] = flags
            self.suite.start_worker(10 + index)
        for index, (what, _, told) in enumerate(cases):
            name = f"worker-{10 + index}"
            with self.subTest(what):
                log = self.suite.wait_for(lambda: (lambda text: text if "coordinator_away" in text else None)(self.suite.log(name)), 30,
                                          f"{name} says why")
                self.assertIn(told, log)
                self.assertEqual(self.suite.kill(name, signal.SIGTERM), 0)
        self.assertLessEqual(len(self.suite.json("workers", "list")["workers"]), 2)
        expired = subprocess.run([BIN / "espalier-worker", *map(str, self.credentials.client("worker", "expired"))],
                                 capture_output=True, text=True, timeout=30)
        self.assertEqual(expired.returncode, 1)
        self.assertIn("has expired; renew it", expired.stderr)

    def test_a_role_does_what_its_name_says_and_no_more(self):
        suite, as_role = self.suite, self.credentials.client
        suite.cli_as(as_role("viewer"), "run", "list")
        suite.cli_as(as_role("worker"), *SCORE)
        suite.cli_as(as_role("admin"), "history", "backup")
        for role, command, may in (("viewer", ("run", "submit", TINY), "submitter, admin"),
                                   ("viewer", SCORE, "submitter, worker, admin"),
                                   ("worker", ("run", "list"), "viewer, submitter, admin"),
                                   ("submitter", ("history", "backup"), "admin")):
            with self.subTest(role=role, command=command):
                text = suite.cli_as(as_role(role), *command, code=5)
                self.assertIn(f"has the role {role}, which may not call", text)
                self.assertIn(f"these may: {may}", text)

    def test_a_run_whose_workers_may_not_score_fails_with_the_reason(self):
        """Another team's reward service, with tokens of its own."""
        with tempfile.TemporaryDirectory(prefix="espalier-credentials-") as folder:
            theirs = pathlib.Path(folder) / "tokens"
            theirs.write_text(new_token(pathlib.Path(folder) / "token", "theirs", "worker") + "\n")
            with SecureSuite(self.credentials, workers=0) as suite:
                write_corpus(suite.data / "corpus.txt")
                suite.kill("reward")
                suite.flags["reward"] = [theirs if flag == self.credentials.folder / "tokens" else flag for flag in suite.flags["reward"]]
                suite.start_reward()
                suite.flags["worker-0"] = self.credentials.client("worker")
                suite.start_worker(0)
                run = suite.wait_end(suite.submit(TINY, **{"workers.count": 1, **SHORT}), "RUN_STATE_FAILED")
                self.assertIn("unknown token", run["detail"])
                self.assertIn(suite.reward, run["detail"])


class Start(unittest.TestCase):
    """What a service refuses to start with; no suite needed."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="espalier-credentials-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.credentials = Credentials(cls.folder.name)
        cls.at = cls.credentials.folder
        data = cls.at / "data"
        cls.services = {"coordinator": [BIN / "espalier-coordinator", "--data", data], "reward": [BIN / "espalier-reward"]}

    def refuse(self, service, *flags):
        done = subprocess.run([*self.services[service], *map(str, flags)], capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr.splitlines()[-1]

    def test_plaintext_beyond_loopback_only_when_asked_for(self):
        for service in self.services:
            with self.subTest(service):
                address = f"0.0.0.0:{free_port()}"
                text = self.refuse(service, "--listen", address)
                for remedy in ("--tls-cert", "--tls-key", "127.0.0.1", "--insecure"):
                    self.assertIn(remedy, text)
                text = self.refuse(service, "--listen", address, "--insecure", "--tokens", self.at / "tokens")
                self.assertIn("--tokens needs --tls-cert and --tls-key beyond loopback", text)
                self.starts(service, address, "--insecure")
        self.assertIn("--insecure", self.refuse("reward", "--http", f"0.0.0.0:{free_port()}"))

    def starts(self, service, address, *flags):
        process = subprocess.Popen([*self.services[service], "--listen", address, *map(str, flags)], stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        command = ("run", "list") if service == "coordinator" else SCORE
        local = address.replace("0.0.0.0", "127.0.0.1")
        deadline = time.monotonic() + 20
        while True:
            done = subprocess.run([BIN / "espalier", f"--{service}", local, *command], capture_output=True, text=True, timeout=30)
            if done.returncode == 0:
                return
            self.assertLess(time.monotonic(), deadline, done.stderr)
            time.sleep(0.1)

    def test_bad_files_are_named_with_what_is_wrong(self):
        good = self.credentials.server("coordinator")
        (self.at / "empty").write_text("")
        (self.at / "garbled").write_text("somebody admin nohash\n")
        for position, name, told in ((1, "expired.pem", "has expired; renew it"), (1, "nowhere.pem", "--tls-cert: cannot read"),
                                     (1, "empty", "holds no certificate"), (3, "client.key", "is not of the certificate in"),
                                     (5, "expired.pem", "--tls-client-ca: the certificate"), (7, "garbled", "line 1: the third word"),
                                     (7, "empty", "espalier token new")):
            for service in self.services:
                with self.subTest(service=service, file=name):
                    flags = list(good)
                    flags[position] = self.at / name
                    text = self.refuse(service, "--listen", "127.0.0.1:0", *flags)
                    self.assertIn(told, text)
                    self.assertIn(name, text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
