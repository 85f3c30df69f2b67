"""Goal: espalier-bench measures what it says. Method: the tiny geometry on CPUs, where everything runs in a second; figures must agree with each other."""
import json
import subprocess
import tempfile
import unittest

from suite import BIN


DEFAULTS = {"--device": "cpu", "--precision": "fp32", "--geometry": "tiny", "--steps": "3", "--warmup": "1"}


def bench(*arguments, code=0):
    given = list(arguments)
    for flag, value in DEFAULTS.items():
        if flag not in given:
            given += [flag, value]
    done = subprocess.run([BIN / "espalier-bench", "train", *given], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout if code == 0 else done.stderr


class TrainBench(unittest.TestCase):
    def test_figures_agree_with_each_other(self):
        result = json.loads(bench("--json"))
        self.assertEqual(128, result["tokens_per_step"])
        self.assertAlmostEqual(128 / result["step_seconds"], result["tokens_per_second"], delta=1)
        self.assertLessEqual(sum(result["phases_seconds"].values()), 1.01 * result["step_seconds"])
        self.assertLess(result["loss_last"], result["loss_first"] + 0.5)
        self.assertEqual(0, result["exposed_communication_seconds"])

    def test_routings_load_experts_as_they_say(self):
        busiest = {routing: json.loads(bench("--json", "--routing", routing))["busiest_expert_over_mean"]
                   for routing in ("balanced", "zipf:2")}
        self.assertLess(busiest["balanced"], 1.05)
        self.assertGreater(busiest["zipf:2"], 2)

    def test_ranks_share_the_model(self):
        result = json.loads(bench("--json", "--ranks", "2", "--routing", "zipfc:1"))
        self.assertEqual(256, result["tokens_per_step"])
        self.assertGreater(result["exposed_communication_seconds"], 0)

    def test_a_prune_makes_the_model_smaller(self):
        result = json.loads(bench("--json", "--prune-share", "0.5"))
        self.assertEqual(8, result["prune"]["experts_removed"])  # half of eight, in two layers
        self.assertLess(result["prune"]["parameters"], result["parameters"])

    def test_a_geometry_of_ones_own(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"vocabulary": 64, "layers": 1, "width": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "experts": 4, "top_k": 1,
                       "expert_width": 16, "sequence": 8, "batch": 2}, file)
            file.flush()
            self.assertEqual(16, json.loads(bench("--json", "--geometry", file.name))["tokens_per_step"])

    def test_bad_words_are_named(self):
        self.assertIn("zipfz:1", bench("--routing", "zipfz:1", code=1))
        self.assertIn("neither M, S or tiny", bench("--geometry", "/nowhere.json", code=1))
        self.assertIn("--device cuda", bench("--precision", "bf16", code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
