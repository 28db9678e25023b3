"""What is in deploy/ for systemd and Kubernetes: what a supervisor is told, and manifests that fit what they name.

No systemd and no API server take part: the test has the socket that systemd would have, and kubectl builds the
manifests, which are held against the schemas of Kubernetes, without a cluster.
"""

import base64
import json
import os
import re
import shutil
import signal
import socket
import sys
import uuid
from pathlib import Path

import pytest
import yaml
from containers import ROOT
from kubernetes_validate import validate
from processes import CLOCKD, FREE, SECONDS, Program, Server, clockd, eventually, run, without_coverage
from test_commands import TWIST

from clockd.config import load
from clockd.service import CLOSING_SECONDS

DEPLOY = ROOT / "deploy"
WATCHDOG_SECONDS = 0.4
WATCHED = {"WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
VERSION = "1.34"
"""Of Kubernetes."""


class Ear:
    """The socket of a supervisor.

    Args:
        name: What it is called in NOTIFY_SOCKET.
    """

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(re.sub("^@", "\0", name))
        self.environment = without_coverage() | {"NOTIFY_SOCKET": name}
        self.words = []

    def listen(self, seconds=SECONDS):
        """Take note of the next datagram; false if none comes."""
        self.socket.settimeout(seconds)
        try:
            self.words += self.socket.recv(4096).decode().splitlines()
        except (TimeoutError, BlockingIOError):
            return False
        return True

    def hear(self, word):
        """Wait for a word, and forget it and all before it."""
        while word not in self.words:
            assert self.listen(), f"waited in vain for {word!r} behind {self.words}"
        del self.words[: self.words.index(word) + 1]

    def hush(self):
        """Forget all that has been said."""
        while self.listen(0.01):
            pass
        self.words.clear()


@pytest.fixture
def ear(tmp_path):
    ear = Ear(str(tmp_path / "notify"))
    yield ear
    ear.socket.close()


@pytest.fixture
def abstract_ear():
    ear = Ear(f"@clockd-test-{uuid.uuid4().hex}")
    yield ear
    ear.socket.close()


def is_stopped(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_server_says_when_it_is_ready_lives_reads_again_and_stops(tmp_path, ear):
    server = Server(tmp_path, environment=ear.environment | WATCHED)
    ear.hear("READY=1")
    assert server.get("/readyz").splitlines()
    ear.hear("WATCHDOG=1")
    ear.hear("STATUS=serving: 0 avatars, 0 pushes/s")

    server.process.send_signal(signal.SIGSTOP)
    eventually(lambda: is_stopped(server.process))
    ear.hush()
    assert not ear.listen(WATCHDOG_SECONDS * 2), ear.words
    server.process.send_signal(signal.SIGCONT)
    ear.hear("WATCHDOG=1")

    server.process.send_signal(signal.SIGHUP)
    ear.hear("RELOADING=1")
    ear.hear("READY=1")
    server.stop()
    ear.hear("STOPPING=1")
    ear.hush()


def test_twist_says_so_too(tmp_path, abstract_ear):
    file, users = tmp_path / "clockd.toml", tmp_path / "users"
    assert clockd("user", "add", "alice", "--users", str(users)).returncode == 0
    file.write_text(f"server.listen = ['{FREE}']\nmetrics.listen = '{FREE}'\nauth.users = '{users}'\n")
    twist = Program(*TWIST, "--config", str(file), environment=abstract_ear.environment | WATCHED)
    abstract_ear.hear("READY=1")
    abstract_ear.hear("WATCHDOG=1")  # before its reactor runs, a signal ends it as it does any process
    assert twist.end() in {0, -signal.SIGTERM}
    abstract_ear.hear("STOPPING=1")
    assert "Traceback" not in twist.output


def test_the_server_of_the_demo_says_nothing(ear):
    demo = Program(*CLOCKD, "demo", environment=ear.environment)
    demo.line("arrived")
    assert demo.end() == 0
    assert not ear.listen(0), ear.words


def test_the_unit_waits_for_what_the_server_says_and_lets_it_drain():
    text = (DEPLOY / "clockd.service").read_text()
    unit = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert (unit["Type"], float(unit["WatchdogSec"]) >= 10) == ("notify", True)
    assert float(unit["TimeoutStopSec"]) > load(DEPLOY / "clockd.toml", {}).server.drain + CLOSING_SECONDS
    assert "AF_UNIX" in unit["RestrictAddressFamilies"].split()


@pytest.fixture(scope="module")
def kubectl():
    path = shutil.which("kubectl", path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")
    if path is None:
        pytest.skip("there is no kubectl here: `make .venv/bin/kubectl` gets one")

    def kubectl(*words):
        done = run(path, *words)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    return kubectl


@pytest.fixture(scope="module", params=["kubernetes", "kubernetes-state"])
def objects(request, kubectl):
    """What kubectl makes of a folder, by kind."""
    made = kubectl("kustomize", str(DEPLOY / request.param))
    by_kind = {each["kind"]: each for each in made}
    assert len(by_kind) == len(made)
    return by_kind


@pytest.fixture
def pod(objects):
    return objects["Deployment"]["spec"]["template"]


@pytest.fixture
def container(pod):
    (container,) = pod["spec"]["containers"]
    return container


CUSTOM = ("ServiceMonitor",)
"""Kinds that are not Kubernetes' own, and so are in none of its schemas."""


def test_the_schemas_of_kubernetes_find_no_fault(objects):
    known = [each for kind, each in objects.items() if kind not in CUSTOM]
    assert len(known) >= 5
    for each in known:
        validate(each, VERSION, strict=True)


def test_everything_that_selects_pods_selects_these(objects, pod):
    specs = {kind: each["spec"] for kind, each in objects.items() if "spec" in each}
    (constraint,) = pod["spec"]["topologySpreadConstraints"]
    selectors = [
        specs["Deployment"]["selector"]["matchLabels"],
        specs["Service"]["selector"],
        specs["PodDisruptionBudget"]["selector"]["matchLabels"],
        specs["NetworkPolicy"]["podSelector"]["matchLabels"],
        constraint["labelSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= pod["metadata"]["labels"].items()
    selected = specs["ServiceMonitor"]["selector"]["matchLabels"]
    assert selected
    assert selected.items() <= objects["Service"]["metadata"]["labels"].items()


def test_only_prometheus_and_clients_reach_it_and_it_reaches_nobody(objects):
    policy = objects["NetworkPolicy"]["spec"]
    peers = {rule["ports"][0]["port"]: rule["from"][0]["podSelector"]["matchLabels"] for rule in policy["ingress"]}
    assert peers == {"pb": {"clockd-client": "true"}, "http-metrics": {"app.kubernetes.io/name": "prometheus"}}
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])


def test_ports_are_those_of_the_image_and_of_the_configuration(objects, container, configuration):
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert sorted(map(str, ports.values())) == instruction("EXPOSE").split()
    image = load(DEPLOY / "container.toml", {})
    assert configuration.server.listen == image.server.listen == (f"tcp:{ports['pb']}",)
    assert configuration.metrics.listen == image.metrics.listen == f"tcp:{ports['http-metrics']}"
    service = {port["name"]: (port["port"], port["targetPort"]) for port in objects["Service"]["spec"]["ports"]}
    assert service == {name: (number, name) for name, number in ports.items()}
    assert {each["port"] for each in objects["ServiceMonitor"]["spec"]["endpoints"]} == {"http-metrics"}
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {"http-metrics"}
    paths = {kind: probe["path"] for kind, probe in probes.items()}
    assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}


def instruction(name):
    """Return what stands behind an instruction of the Dockerfile, the last of this name."""
    return re.findall(rf"^{name} (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]


@pytest.fixture
def configuration(objects, container, tmp_path):
    """What the server in the pod makes of its configuration and its environment."""
    file = tmp_path / "clockd.toml"
    file.write_text(objects["ConfigMap"]["data"]["clockd.toml"])
    return load(file, {each["name"]: each["value"] for each in container.get("env", ())})


def test_files_are_where_the_image_and_the_configuration_have_them(objects, pod, container, configuration):
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert json.loads(instruction("ENTRYPOINT")) == ["clockd"]
    options = container["args"]
    file = Path(options[options.index("--config") + 1])
    assert str(file) in json.loads(instruction("CMD"))
    assert mounted[str(file.parent)]["configMap"]["name"] == objects["ConfigMap"]["metadata"]["name"]
    assert file.name in objects["ConfigMap"]["data"]
    users = Path(configuration.auth.users)
    assert mounted[str(users.parent)]["secret"]["secretName"] == "clockd-users"
    assert users.name == "users"
    if configuration.server.state:
        (claim,) = (volume["persistentVolumeClaim"]["claimName"] for name, volume in volumes.items() if name == "state")
        assert claim == objects["PersistentVolumeClaim"]["metadata"]["name"]
        assert volumes["state"] == mounted[str(Path(configuration.server.state).parent)]
        assert instruction("VOLUME") in mounted


def test_a_file_with_what_is_remembered_is_one_server_s_alone(objects, configuration):
    spec = objects["Deployment"]["spec"]
    if configuration.server.state:
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    else:
        assert spec["replicas"] > 1
        assert "PersistentVolumeClaim" not in objects


def test_a_pod_has_time_to_drain(pod, container, configuration):
    _, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    needed = float(seconds) + configuration.server.drain + CLOSING_SECONDS
    assert pod["spec"]["terminationGracePeriodSeconds"] >= needed + 5


def test_a_pod_asks_for_no_more_than_the_restricted_profile_allows(pod, container):
    spec, image = pod["spec"], [int(word) for word in instruction("USER").split(":")]
    context = spec["securityContext"]
    assert [context["runAsUser"], context["runAsGroup"]] == image
    assert context["fsGroup"] == image[1]
    assert context["runAsNonRoot"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & spec.keys()
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "secret", "persistentVolumeClaim"}
    assert container["image"] == "clockd"


MIB = 2**20


def test_memory_is_enough_for_as_many_clients_as_may_log_in(container, configuration):
    tls, itself, passwords = 33 * 1024, 80 * MIB, 4 * 64 * MIB
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * MIB
    assert limit >= configuration.limits.connections * tls + itself + passwords
    assert "cpu" not in container["resources"]["limits"]


def test_the_documented_kustomization_has_pods_take_the_image_of_a_registry(kubectl, tmp_path):
    page = (ROOT / "docs" / "deployment.md").read_text()
    (text,) = re.findall(r"^```text\n(namespace: .*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "clockd").symlink_to(ROOT)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "kustomization.yaml").write_text(text)
    made = {each["kind"]: each for each in kubectl("kustomize", str(tmp_path / "own"))}
    assert {each["metadata"]["namespace"] for each in made.values()} == {"clockd"}
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.org/clockd:0.1.0"


def test_the_documented_command_makes_the_secret_that_the_pods_have(kubectl, tmp_path):
    page = (ROOT / "docs" / "deployment.md").read_text()
    (words,) = re.findall(r"^\$ kubectl (.*create secret generic clockd-users \S+)$", page, re.MULTILINE)
    users = tmp_path / "users"
    assert clockd("user", "add", "alice", "--users", str(users)).returncode == 0
    line = words.replace("=users", f"={users}")
    (secret,) = kubectl(*line.split(), "--dry-run=client", "--output=yaml")
    assert base64.b64decode(secret["data"]["users"]) == users.read_bytes()
