"""Goal: the API server would take every object that is rendered. Method: strict schemas, made from the types of npm's kubernetes-types and kept
in schemas/ for custom resources; a misspelt field must be caught."""
import copy
import hashlib
import json
import os
import subprocess
import unittest

from chart import HERE, SETS, TOOLS, find, install_tools, render


def schemas():
    """The generated schema, made once for a version of its inputs."""
    install_tools()
    key = hashlib.sha256((HERE / "make_schemas.mjs").read_bytes() + (HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    path = TOOLS / f"kubernetes-{key}.json"
    if not path.exists():
        part = f"{path}.{os.getpid()}"
        subprocess.run(["node", HERE / "make_schemas.mjs", part], cwd=TOOLS, check=True)
        os.replace(part, path)
    return path


def faults(objects):
    done = subprocess.run(["node", HERE / "validate.mjs", schemas(), HERE / "schemas"], cwd=TOOLS, input=json.dumps(objects),
                          capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or done.stderr:
        raise AssertionError(done.stderr)
    return done.stdout


class Schemas(unittest.TestCase):
    def test_every_object_is_valid(self):
        for name in SETS:
            with self.subTest(name):
                self.assertEqual("", faults(render(name)))

    def test_mistakes_are_caught(self):
        objects = render("production")
        worker = copy.deepcopy(find(objects, "StatefulSet", "demo-worker"))
        worker["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
        certificate = copy.deepcopy(find(objects, "Certificate", "demo-reward"))
        certificate["spec"]["dnsName"] = "x"
        jobset = copy.deepcopy(find(render("jobset"), "JobSet", "demo-worker-1"))
        jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["completion"] = 2
        unknown = {"apiVersion": "v1", "kind": "Sevice", "metadata": {"name": "x"}}
        for one, word in ((worker, "redinessProbe"), (certificate, "dnsName"), (jobset, "completion"), (unknown, "no schema")):
            self.assertIn(word, faults([one]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
