"""The cluster profiles without a cluster: their options are the plugins', and the DAG can be planned through them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from kubernetes_api import cluster
from workflow_harness import ROOT, Pipeline, read_config

PROFILES = ROOT / "workflow/profiles"


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_the_options_of_an_executor_are_its_settings(name: str) -> None:
    plugin = pytest.importorskip(f"snakemake_executor_plugin_{name}")
    profile = yaml.safe_load((PROFILES / name / "profile.yaml").read_text(encoding="utf-8"))
    assert profile["executor"] == name
    given = {key.removeprefix(f"{name}-").replace("-", "_") for key in profile if key.startswith(f"{name}-")}
    assert given
    assert given <= {field.name for field in fields(import_module(plugin.__name__).ExecutorSettings)}


def test_every_job_of_the_paper_can_be_planned_for_kubernetes(pipeline: Pipeline, tmp_path: Path) -> None:
    """No cluster is asked. Files that the pods could not see are no inputs."""
    pytest.importorskip("snakemake_executor_plugin_kubernetes")
    pytest.importorskip("snakemake_storage_plugin_fs")
    profile = ("--profile", "workflow/profiles/kubernetes", "--default-storage-prefix", str(tmp_path / "volume"))
    planned = pipeline.dry_run(*profile, config="config/paper.yaml")
    assert planned.jobs == pipeline.dry_run(config="config/paper.yaml").jobs
    assert "src/nested_reft" not in planned.output
    assert "hub.lock" not in planned.output


@pytest.mark.slow
def test_pods_do_the_jobs(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that succeeds, and one for a GPU that its pod does not have."""
    pytest.importorskip("snakemake_executor_plugin_kubernetes")
    pytest.importorskip("snakemake_storage_plugin_fs")
    if not shutil.which("rsync"):
        pytest.skip("no rsync, with which the storage plugin copies")
    settings = read_config("smoke.yaml") | {"device": "cuda", "resources": {"tiny": {"model": {"mem_mb": 700}}}}
    config = pipeline.write_config(settings)
    for command in (["init", "-q"], ["add", "-A"]):  # the sources that are sent are those that git knows of
        subprocess.run(["git", *command], cwd=pipeline.folder, check=True)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    volume = tmp_path / "volume"
    profile = ("--profile", "workflow/profiles/kubernetes", "--default-storage-prefix", str(volume))
    targets = ("results/smoke/data/test/heldout.jsonl", "results/smoke/models/tiny.json")
    with cluster(pipeline.folder / "src") as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        done = pipeline.call(*profile, "--retries", "0", "--latency-wait", "1", *targets, config=config, timeout=900)
    assert done.code != 0
    assert len((volume / targets[0]).read_text(encoding="utf-8").splitlines()) == 16
    good, bad = sorted(server.jobs.values(), key=lambda job: job["exit_code"])
    assert (good["exit_code"], bad["exit_code"]) == (0, 1), done.output + good["log"]
    assert "the job asks for 1 GPU(s), but 0 can be seen" in bad["log"]
    assert "Error in rule model" in done.output
    (container,) = bad["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"  # only as a request, Kubernetes refuses it
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["limits"]["memory"] == "700M"
    assert [mount["name"] for mount in container["volumeMounts"]][1:] == ["nested-reft"]


@pytest.mark.parametrize("name", ["one-gpu", "many-gpus"])
def test_the_profiles_of_one_machine_can_be_used(pipeline: Pipeline, name: str) -> None:
    planned = pipeline.dry_run("--profile", f"workflow/profiles/{name}", config="config/smoke.yaml")
    assert planned.jobs["train"] == 12
