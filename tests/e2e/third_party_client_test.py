"""Goal: any gRPC client can use the suite. Method: Node's @grpc/grpc-js, with the .proto files alone, against real processes."""
import json
import subprocess
import unittest

from suite import BIN, Suite, write_corpus


class ThirdPartyClient(unittest.TestCase):
    def test_grpc_js_submits_watches_and_scores(self):
        with Suite(workers=2) as suite:
            write_corpus(suite.data / "corpus.txt")
            # The spec as plain JSON, which the client turns into a message by itself.
            checked = subprocess.run([BIN / "espalier", "--json", "run", "check", "deploy/runs/tiny.yaml"],
                                     capture_output=True, text=True, check=True)
            spec = json.loads(checked.stdout)
            path = suite.directory / "spec.json"
            path.write_text(json.dumps(spec.get("spec", spec)))
            done = subprocess.run(["node", "tests/e2e/js/client.mjs", suite.coordinator, suite.reward, str(path)],
                                  capture_output=True, text=True, timeout=180)
            self.assertEqual(0, done.returncode, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
