"""Plays a rendered release on loopback: each container's program with exactly the arguments and environment that are rendered.

What a cluster would do is done by rewriting places alone: NAME.…svc:PORT and 0.0.0.0:PORT become 127.0.0.1 and a free port, the same wherever the
same pod's port is meant; paths below a mount become folders of this machine, the same wherever the same volume is meant; $(VARIABLES) of
the container's environment are expanded, with the names and indices that Kubernetes gives to pods.
"""
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

from chart import HERE, NAMESPACE, ROOT, find

sys.path.insert(0, str(ROOT / "tests/e2e"))
from suite import free_port  # noqa: E402

BIN = pathlib.Path(os.environ.get("ESPALIER_BIN", ROOT / "build/release/bin")).resolve()
# What Kubernetes adds to the hostname for the name of a Job's pod.
JOB_SUFFIX = "-abcde"
PROGRAMS = {"coordinator": "espalier-coordinator", "reward": "espalier-reward", "worker-cpu": "espalier-worker", "cli": "espalier"}


class Play:
    """`secrets`: folder by Secret name. Use as a context manager; leaving it ends what runs."""

    def __init__(self, objects, folder, secrets=None):
        self.objects, self.folder, self.secrets = objects, pathlib.Path(folder), secrets or {}
        self.ports, self.running = {}, {}

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        if kind is not None:
            for log in sorted(self.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")

    def port(self, pod, port):
        pod = pod.removesuffix(JOB_SUFFIX)  # a Job's pods are known by their hostnames
        return self.ports.setdefault((pod, int(port)), free_port())

    def place_of_volume(self, one, pod, pod_name, volume_name):
        """The folder that stands for a volume; its contents are what Kubernetes would put there."""
        for claim in one["spec"].get("volumeClaimTemplates", []):
            if claim["metadata"]["name"] == volume_name:
                return self.made(f"claim-{volume_name}-{pod_name}")
        volume = next(v for v in pod["spec"]["volumes"] if v["name"] == volume_name)
        if "persistentVolumeClaim" in volume:
            return self.made(f"claim-{volume['persistentVolumeClaim']['claimName']}")
        if "secret" in volume:
            return pathlib.Path(self.secrets[volume["secret"]["secretName"]])
        if "configMap" in volume:
            folder = self.made(f"config-{volume['configMap']['name']}")
            for key, text in find(self.objects, "ConfigMap", volume["configMap"]["name"])["data"].items():
                (folder / key).write_text(text)
            return folder
        return self.made(f"empty-{pod_name}-{volume_name}")

    def made(self, name):
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def command(self, one, pod, pod_name, index=0):
        container = pod["spec"]["containers"][0]
        environment = {}
        for variable in container.get("env", []):
            path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            environment[variable["name"]] = {"metadata.name": pod_name, None: variable.get("value")}.get(
                path, str(index) if path and "completion-index" in path else None)
            assert environment[variable["name"]] is not None, variable
        mounts = sorted(((mount["mountPath"], self.place_of_volume(one, pod, pod_name, mount["name"]))
                         for mount in container.get("volumeMounts", [])), key=lambda pair: -len(pair[0]))
        for path, place in mounts:  # a volume within a volume, such as the sample corpus
            for outer, outside in mounts:
                if path.startswith(outer + "/"):
                    inner = outside / path[len(outer) + 1:]
                    if not inner.exists():
                        shutil.copytree(place, inner)

        def rewrite(argument):
            argument = re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], argument)
            flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
            place = next(((path, folder) for path, folder in mounts if value == path or value.startswith(path + "/")), None)
            if place:
                value = str(place[1]) + value[len(place[0]):]
            value = re.sub(r"\b0\.0\.0\.0:(\d+)", lambda found: f"127.0.0.1:{self.port(pod_name, found[1])}", value)
            value = re.sub(rf"\b([\w-]+)(\.[\w-]+)?\.{NAMESPACE}\.svc:(\d+)", self.address, value)
            return flag + equals + value

        program = PROGRAMS[container["image"].rpartition("espalier-")[2].partition(":")[0]]
        return [BIN / program, *map(rewrite, container["args"])], {**os.environ, **environment}

    def address(self, found):
        """NAME.SERVICE.team.svc:PORT is a pod's; SERVICE.team.svc:PORT that of the service's first pod."""
        name, service, port = found[1], found[2], found[3]
        if service:
            return f"127.0.0.1:{self.port(name, port)}"
        pod = {"demo-coordinator": "demo-coordinator-0", "demo-reward": "demo-reward-x"}[name]
        return f"127.0.0.1:{self.port(pod, port)}"

    def start(self, one, pod, pod_name, index=0):
        command, environment = self.command(one, pod, pod_name, index)
        with open(self.folder / f"{pod_name}.log", "ab") as log:
            self.running[pod_name] = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def stop(self, pod_name):
        """As a node does: SIGTERM. Returns the exit code."""
        process = self.running.pop(pod_name)
        process.terminate()
        return process.wait(60)

    def finish(self, one, pod, name, timeout=120, attempts=1):
        """Runs a pod of a job or test to its end, again as a Job would; returns what it printed."""
        for attempt in range(attempts):
            command, environment = self.command(one, pod, name)
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
            if done.returncode == 0:
                return done.stdout
            time.sleep(0.5)
        raise AssertionError(f"{name}: exit {done.returncode}\n{done.stdout}{done.stderr}")

    def probe(self, pod_name, container, kind, seconds=30):
        """Until a rendered probe succeeds."""
        probe = container[kind]
        numbers = {port["name"]: port["containerPort"] for port in container["ports"]}
        way = next(one for one in ("grpc", "tcpSocket", "httpGet") if one in probe)
        port = self.port(pod_name, numbers.get(probe[way]["port"], probe[way]["port"]))
        deadline = time.monotonic() + seconds
        while True:
            try:
                if way == "grpc":
                    done = subprocess.run(["node", HERE / "health.mjs", f"127.0.0.1:{port}"], cwd=ROOT / "build/npm", capture_output=True, text=True)
                    said = done.stdout.strip()
                    if said == "SERVING":
                        return
                elif way == "tcpSocket":
                    socket.create_connection(("127.0.0.1", port), 2).close()
                    return
                else:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{probe[way]['path']}", timeout=5) as answer:
                        if answer.status == 200:
                            return
            except OSError as error:
                said = error
            if time.monotonic() > deadline:
                raise AssertionError(f"{pod_name}: {kind} did not succeed: {said}")
            time.sleep(0.1)
