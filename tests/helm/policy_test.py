"""Goal: what the chart promises of its pods holds in every rendering: locked down, probed apart, nothing named that is not there, and exactly the
needed ways through the network. Method: assertions on the rendered objects, and the binaries' own --help."""
import functools
import os
import pathlib
import re
import subprocess
import unittest

from chart import SETS, find, of_kind, pod_of, pods, render
from reach import may

BIN = pathlib.Path(os.environ.get("ESPALIER_BIN", "build/release/bin")).resolve()
PROGRAMS = {"coordinator": "espalier-coordinator", "reward": "espalier-reward", "worker-cpu": "espalier-worker",
            "worker-cuda": "espalier-worker", "cli": "espalier"}
LONG_RUNNING = {"coordinator", "reward", "worker"}
# Secrets and claims that a set of values says are there already.
GIVEN = re.compile(r"^(coordinator-cert|reward-cert|client-cert|espalier-hashes|espalier-tokens|otel-ca|registry|shared-data|training-data)$")


@functools.lru_cache(maxsize=None)
def flags_of(program, *subcommands):
    done = subprocess.run([BIN / program, *subcommands, "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"(--[a-z0-9-]+)", done.stdout))


def containers(name):
    for one, pod in pods(render(name)):
        for container in pod["spec"]["containers"]:
            yield one, pod, container


class Policies(unittest.TestCase):
    def every(self, check):
        for name in SETS:
            for one, pod, container in containers(name):
                with self.subTest(f"{name}: {one['kind']} {one['metadata']['name']} {container['name']}"):
                    check(name, one, pod["spec"], container)

    def test_restricted(self):
        def check(_, one, pod, container):
            security, inner = pod["securityContext"], container["securityContext"]
            self.assertTrue(security["runAsNonRoot"] and security["runAsUser"] > 0 and security["fsGroup"] > 0)
            self.assertEqual("RuntimeDefault", security["seccompProfile"]["type"])
            self.assertIs(False, inner["allowPrivilegeEscalation"])
            self.assertIs(True, inner["readOnlyRootFilesystem"])
            self.assertEqual(["ALL"], inner["capabilities"]["drop"])
            self.assertNotIn("add", inner["capabilities"])
            self.assertNotIn("privileged", inner)
            self.assertIs(False, pod["automountServiceAccountToken"])
            for key in ("hostNetwork", "hostPID", "hostIPC"):
                self.assertNotIn(key, pod)
            for volume in pod.get("volumes", []):
                self.assertNotIn("hostPath", volume)
        self.every(check)

    def test_resources_and_images(self):
        def check(_, one, pod, container):
            for kind in ("requests", "limits"):
                self.assertLessEqual({"cpu", "memory"}, set(container["resources"][kind]))
            image, _, tag = container["image"].rpartition(":")
            self.assertNotIn(tag, ("", "latest"))
            self.assertIn(image.rpartition("/espalier-")[2] if "/" in image else image.removeprefix("espalier-"), PROGRAMS)
        self.every(check)

    def test_probes_are_apart_and_on_declared_ports(self):
        def check(_, one, pod, container):
            if container["name"] not in LONG_RUNNING:
                return
            names = {port["name"] for port in container["ports"]} | {port["containerPort"] for port in container["ports"]}
            probes = [container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
            for probe in probes:
                way = next(probe[kind] for kind in ("grpc", "tcpSocket", "httpGet") if kind in probe)
                self.assertIn(way["port"], names)
            self.assertEqual(3, len({str(probe) for probe in probes}))
            if container["name"] != "worker":
                self.assertIn("grpc", container["readinessProbe"])
                self.assertIn(f"--health-listen=0.0.0.0:{container['readinessProbe']['grpc']['port']}", container["args"])
        self.every(check)

    def test_arguments_are_the_programs(self):
        def check(_, one, pod, container):
            program = PROGRAMS[container["image"].rpartition("espalier-")[2].partition(":")[0]]
            known = flags_of(program)
            words = [word for word in container["args"] if not word.startswith("-")]
            if program == "espalier":
                known = known | flags_of(program, *words[:2])
            for argument in container["args"]:
                if argument.startswith("-"):
                    self.assertIn(argument.partition("=")[0], known)
            ports = {port["containerPort"] for port in container.get("ports", [])}
            for argument in container["args"]:
                listen = re.fullmatch(r"--(?:listen|health-listen|metrics-listen|listen-links|http)=0\.0\.0\.0:(\d+)", argument)
                if listen:
                    self.assertIn(int(listen[1]), ports, argument)
        self.every(check)

    def test_paths_are_mounted(self):
        def check(_, one, pod, container):
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            volumes = {volume["name"] for volume in pod.get("volumes", [])}
            volumes |= {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
            for mount in container.get("volumeMounts", []):
                self.assertIn(mount["name"], volumes)
            self.assertEqual(len(mounts), len(set(mounts)))
            for argument in container["args"]:
                path = argument.partition("=")[2] if argument.startswith("--") else argument
                if path.startswith("/"):
                    self.assertTrue(any(path == mount or path.startswith(mount + "/") for mount in mounts), argument)
        self.every(check)

    def test_what_is_named_is_there(self):
        for name in SETS:
            objects = render(name)
            with self.subTest(name):
                named = {(one["kind"], one["metadata"]["name"]) for one in objects}
                named |= {("Secret", one["spec"]["secretName"]) for one in of_kind(objects, "Certificate")}
                for one, pod in pods(objects):
                    spec = pod["spec"]
                    wanted = [("ServiceAccount", spec["serviceAccountName"])]
                    wanted += [("Secret", secret["name"]) for secret in spec.get("imagePullSecrets", [])]
                    for volume in spec.get("volumes", []):
                        if "configMap" in volume:
                            wanted.append(("ConfigMap", volume["configMap"]["name"]))
                        if "secret" in volume:
                            wanted.append(("Secret", volume["secret"]["secretName"]))
                        if "persistentVolumeClaim" in volume:
                            wanted.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
                    if spec.get("priorityClassName"):
                        wanted.append(("PriorityClass", spec["priorityClassName"]))
                    for kind, what in wanted:
                        self.assertTrue((kind, what) in named or GIVEN.match(what), f"{one['metadata']['name']} wants {kind} {what}")

    def test_services_select_pods_and_name_their_ports(self):
        for name in SETS:
            objects = render(name)
            templates = [pod for _, pod in pods(objects)]
            for service in of_kind(objects, "Service"):
                with self.subTest(f"{name}: {service['metadata']['name']}"):
                    chosen = [pod for pod in templates if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]
                    self.assertEqual(1, len(chosen))
                    ports = {port["name"] for port in chosen[0]["spec"]["containers"][0]["ports"]}
                    for port in service["spec"]["ports"]:
                        self.assertIn(port["targetPort"], ports)
            for workload in of_kind(objects, "StatefulSet", "Deployment"):
                selector = workload["spec"]["selector"]["matchLabels"]
                self.assertLessEqual(selector.items(), pod_of(workload)["metadata"]["labels"].items())
            for budget in of_kind(objects, "PodDisruptionBudget"):
                self.assertTrue(any(budget["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items() for pod in templates))
            for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
                deployment = find(objects, "Deployment", scaler["spec"]["scaleTargetRef"]["name"])
                self.assertNotIn("replicas", deployment["spec"], "two would set it")

    def test_workers_advertise_names_that_the_service_gives_them(self):
        for name, kind, host in (("default", "StatefulSet", "$(POD_NAME)"), ("job", "Job", "demo-worker-1-$(POD_INDEX)"),
                                 ("jobset", "JobSet", "demo-worker-1-ranks-0-$(POD_INDEX)")):
            one = of_kind(render(name), kind)
            worker = next(item for item in one if "worker" in item["metadata"]["name"])
            pod = pod_of(worker)["spec"]
            self.assertIn(f"--advertise={host}.demo-worker.team.svc:7100", pod["containers"][0]["args"])
            if kind == "StatefulSet":
                self.assertEqual("demo-worker", worker["spec"]["serviceName"])
            else:
                self.assertEqual("demo-worker", pod["subdomain"])
                self.assertIn("--once", pod["containers"][0]["args"])
            self.assertTrue(find(render(name), "Service", "demo-worker")["spec"]["publishNotReadyAddresses"])

    def test_gangs_wait_for_their_queue(self):
        jobset = find(render("jobset"), "JobSet", "demo-worker-1")
        self.assertEqual("research", jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"])
        self.assertIs(True, jobset["spec"]["suspend"])
        container = pod_of(find(render("gpu"), "StatefulSet", "demo-worker"))["spec"]["containers"][0]
        self.assertEqual("1", container["resources"]["limits"]["nvidia.com/gpu"])
        self.assertIn({"name": "NCCL_IB_HCA", "value": "mlx5"}, container["env"])


class Network(unittest.TestCase):
    """The table of ways: all others are closed."""

    def ways(self, name):
        objects = render(name)
        policies = of_kind(objects, "NetworkPolicy")
        parts = {part: next(pod["metadata"]["labels"] for one, pod in pods(objects) if one["metadata"]["name"] == f"demo-{workload}")
                 for part, workload in (("coordinator", "coordinator"), ("reward", "reward"), ("worker", "worker"), ("client", "test-score"))}
        peers = {part: {"labels": labels, "namespace_labels": {}, "inside": True} for part, labels in parts.items()}
        peers["stranger"] = {"labels": {"app": "x"}, "namespace_labels": {}, "inside": True}
        peers["friend"] = {"labels": {"espalier-client": "true"}, "namespace_labels": {}, "inside": True}
        peers["prometheus"] = {"labels": {"app": "prometheus"}, "namespace_labels": {"kubernetes.io/metadata.name": "monitoring"}, "inside": False}
        peers["elsewhere"] = {"labels": {"espalier-client": "true"}, "namespace_labels": {"kubernetes.io/metadata.name": "default"}, "inside": False}
        ports = (7001, 7002, 7081, 7082, 7100, 8080, 9090, 4317, 22)
        targets = [*parts, "elsewhere", "stranger"]
        return {(source, target, port) for source in peers for target in targets for port in ports
                if source != target or source == "worker"
                if not ({source, target} & {"elsewhere", "stranger", "friend", "prometheus"} == {source, target})
                and may(policies, peers[source], peers[target], port)}

    def test_exactly_the_needed_ways_are_open(self):
        inside = {("worker", "coordinator", 7001), ("worker", "reward", 7002), ("worker", "worker", 7100), ("client", "coordinator", 7001),
                  ("client", "reward", 7002), ("friend", "coordinator", 7001), ("friend", "reward", 7002)}
        scrapes = {(source, target, 9090) for source in ("prometheus", "elsewhere") for target in ("coordinator", "reward", "worker")}
        # Any pod of the namespace may scrape where no namespaces are named; the release's own have no way out to it.
        near = {(source, target, 9090) for source in ("stranger", "friend") for target in ("coordinator", "reward", "worker")}
        self.assertEqual(inside | scrapes | near, self.ways("default"))

    def test_production_lets_the_monitoring_namespace_and_the_collector_alone(self):
        ways = self.ways("production")
        self.assertIn(("prometheus", "worker", 9090), ways)
        for source in ("elsewhere", "stranger", "friend"):
            self.assertNotIn((source, "worker", 9090), ways)
        for source in ("coordinator", "reward", "worker"):
            self.assertIn((source, "elsewhere", 4317), ways)
            self.assertNotIn((source, "elsewhere", 22), ways)
        self.assertIn(("friend", "reward", 8080), ways)
        self.assertNotIn(("stranger", "coordinator", 7001), ways)
        self.assertNotIn(("worker", "worker", 22), ways)
        self.assertNotIn(("client", "worker", 7100), ways)

    def test_names_resolve(self):
        policies = of_kind(render("default"), "NetworkPolicy")
        source = {"labels": find(render("default"), "StatefulSet", "demo-worker")["spec"]["template"]["metadata"]["labels"], "namespace_labels": {}, "inside": True}
        target = {"labels": {"k8s-app": "kube-dns"}, "namespace_labels": {}, "inside": False}
        self.assertTrue(may(policies, source, target, 53, "UDP"))
        self.assertFalse(may(policies, source, target, 80))


if __name__ == "__main__":
    unittest.main(verbosity=2)
