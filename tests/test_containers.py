"""The image, the compose file and the development container: what they name is there, what they call is understood."""

from __future__ import annotations

import importlib.util
import json
import tomllib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from command_line import mistake

from lightning_pbrl.cli import main

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.fixture(scope="module")
def prove() -> ModuleType:
    """``docker/prove.py``, which needs no installation."""
    spec = importlib.util.spec_from_file_location("prove", ROOT / "docker/prove.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_steps_of_the_dockerfile_are_those_that_the_proof_takes(prove: ModuleType, tmp_path: Path) -> None:
    steps = list(prove.steps((ROOT / "Dockerfile").read_text()))
    words = [word for word, _ in steps]
    assert words[0] == "FROM" and words[-2:] == ["ENTRYPOINT", "CMD"]
    assert words.index("COPY") < words.index("USER") and "\\" not in "".join(rest for _, rest in steps)
    root = prove.Root(tmp_path, {"EXTRAS": "web"}, [])
    root.run = root.copy = lambda rest: None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\npbrl:x:1000:1000::/home/pbrl:/bin/sh\n")
    for step in steps:
        root.take(*step)
    assert (root.user, root.env["HOME"], root.folder) == ("pbrl", "/home/pbrl", "/experiments")
    assert (root.env["EXTRAS"], root.env["MUJOCO_GL"]) == ("web", "egl")
    assert root.entry[0] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert root.command("true")[-1] == "cd /experiments && true" and "MUJOCO_GL=egl" in root.command("true")
    with pytest.raises(SystemExit, match="runs as user '1001', whom the image does not have"):
        root.take("USER", "1001")
    with pytest.raises(SystemExit, match="does not know the step HEALTHCHECK"):
        root.take("HEALTHCHECK", "")


def test_the_proof_begins_in_a_clean_root(prove: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(SystemExit, match=r"The steps have been taken in .* before: remove that folder"):
        prove.begin(tmp_path, "bookworm", [])


def test_what_goes_into_the_image(prove: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = (ROOT / ".dockerignore").read_text().split()
    for path in (".git", ".env", "runs", "data", "tests", "lightning_pbrl/data/__pycache__", "x.egg-info"):
        assert prove.ignored(path, patterns), path
    for path in ("lightning_pbrl/data", "conf/data", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        assert not prove.ignored(path, patterns), path
    for word, rest in prove.steps((ROOT / "Dockerfile").read_text()):
        if word == "COPY":
            source = next(part for part in rest.split() if not part.startswith("--"))
            assert (ROOT / source).exists() and not prove.ignored(source, patterns)
    here = tmp_path / "here"
    for path in ("conf/data", "data", "conf/__pycache__"):
        (here / path).mkdir(parents=True)
        (here / path / "file").touch()
    (here / ".dockerignore").write_text("data\n**/__pycache__\n")
    monkeypatch.setattr(prove, "CONTEXT", here)
    prove.Root(tmp_path / "root", {}, []).copy(". /src")
    assert [path.relative_to(tmp_path / "root/src").as_posix() for path in sorted((tmp_path / "root").rglob("file"))] == [
        "conf/data/file"
    ]


def ours() -> dict[str, dict[str, Any]]:
    """The services that run this library's image."""
    return {name: each for name, each in SERVICES.items() if each.get("image") == "lightning-pbrl"}


def test_the_services_of_the_compose_file_fit_together() -> None:
    assert set(SERVICES) == {"database", "training", "label", "tensorboard"} and set(ours()) == set(SERVICES) - {"database"}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    store = next(part for part in SERVICES["training"]["command"] if part.startswith("--ask.store="))
    assert store.endswith("://{POSTGRES_USER}@database/{POSTGRES_DB}".format(**SERVICES["database"]["environment"]))
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        for volume in service.get("volumes", []):
            place, inside = volume.split(":")
            assert place.startswith("./") or place in COMPOSE["volumes"], volume
            assert inside.startswith(("/experiments/", "/var/lib/postgresql/")), volume
        for port in service.get("ports", []):
            address, outside, inside = port.split(":")
            assert address == "127.0.0.1" and outside == inside == service["command"][service["command"].index("--port") + 1]
    for service in ours().values():
        assert set(service["build"]["args"]["EXTRAS"].split(",")) <= set(extras)
        assert service["environment"]["PGPASSWORD"] == SERVICES["database"]["environment"]["POSTGRES_PASSWORD"]


def test_the_training_is_a_fit_with_valid_settings(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main([*SERVICES["training"]["command"], "--print_config"])
    assert end.value.code in (0, None)
    config = yaml.safe_load(capfd.readouterr().out)
    assert config["ask"]["store"].startswith("postgresql+psycopg://") and config["run_dir"] == "runs/people"


def test_the_page_and_tensorboard_understand_their_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "runs/people" in mistake(capfd, *SERVICES["label"]["command"])  # no such run yet: the one thing that is wrong
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages inside TensorBoard
        from tensorboard import default, program

        board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(argv=["tensorboard", *SERVICES["tensorboard"]["command"]])
    assert (board.flags.logdir, board.flags.port, board.flags.bind_all) == ("runs", 6006, True)


def test_the_development_container_makes_what_the_makefile_makes() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    word, target = container["postCreateCommand"].split()
    assert word == "make" and f"\n{target}:" in (ROOT / "Makefile").read_text()
    published = {int(port.split(":")[1]) for service in SERVICES.values() for port in service.get("ports", [])}
    assert set(container["forwardPorts"]) == published == {int(port) for port in container["portsAttributes"]}


FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"entrypoint", "shutdownAfterJobFinishes", "rayClusterSpec", "ttlSecondsAfterFinished", "runtimeEnvYAML"},
    "rayClusterSpec": {"rayVersion", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling"},
    "headGroupSpec": {"rayStartParams", "template", "serviceType"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "numOfHosts"},
}
"""Fields of KubeRay's types (``ray-operator/apis/ray/v1/rayjob_types.go``, ``raycluster_types.go``), as far as we use them."""


def test_the_rayjob_of_the_docs(prove: ModuleType) -> None:
    """Its fields are KubeRay's, its versions and paths ours, and its pods can do what they are to do."""
    text = (ROOT / "docs/clusters.md").read_text()
    job = yaml.safe_load(text.partition("```yaml\napiVersion")[2].partition("```")[0].join(["apiVersion", ""]))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    for part, found in (("", job), ("spec", job["spec"]), ("rayClusterSpec", cluster), ("headGroupSpec", head)):
        assert found.keys() <= FIELDS[part]
    assert all(group.keys() <= FIELDS["workerGroupSpecs"] for group in workers)
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().split()
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # a map of texts
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        (mount,) = container["volumeMounts"]
        assert f"cd {mount['mountPath']}/" in job["spec"]["entrypoint"]
        assert pod["securityContext"]["fsGroup"] == 1000
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "useradd --create-home --uid 1000 pbrl" in dockerfile
    assert dict(prove.steps(dockerfile))["USER"] == "1000"  # by number, which Kubernetes needs for runAsNonRoot
    assert " wget " in dockerfile
