"""Goal: a stock gRPC client of another language streams batches and takes its answers out of order. Method: Node's @grpc/grpc-js."""
import subprocess
import unittest

from reward_http_test import Service


class JsClient(unittest.TestCase):
    def test_score_stream(self):
        with Service("--threads", 2) as service:
            done = subprocess.run(["node", "tests/e2e/js/reward_stream.mjs", service.grpc], capture_output=True, text=True,
                                  timeout=120)
            self.assertEqual(0, done.returncode, done.stdout + done.stderr)
            stats = service.call("/stats")[1]
            self.assertEqual((301, 1), (stats["requests"]["answered"], stats["requests"]["invalid"]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
